"""FuxiCTR's DIN as it is shipped, run by `benchmarks/ctr.py` in an environment of its own: see `peers.sh`.

Reads one JSON command a line, answers one JSON line. Nothing of FuxiCTR is changed; its model, loaders and
preprocessing are called as its own `run_expid.py` calls them, on one thread and without worker processes.
"""

import contextlib
import json
import logging
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.preprocess import FeatureProcessor
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.torch_utils import seed_everything
from model_zoo.LongCTR.DIN import DIN
from model_zoo.LongCTR.longctr_dataloader import LongCTRDataLoader

META = ("user_index", "item_index", "seq_len")


class Peer:
    """One model with its data; `facts` is the `facts.json` that the benchmark wrote beside the rows."""

    def __init__(self, folder, learning_rate, max_len=0):
        self.folder, self.facts = Path(folder), json.loads((Path(folder) / "facts.json").read_text())
        self.max_len = max_len or self.facts["history"]
        seed_everything(0)
        self.map = self._feature_map(dict.fromkeys(META, "meta"))
        self.model = DIN(
            self.map,
            gpu=-1,
            dnn_hidden_units=self.facts["hidden"],
            attention_hidden_units=[self.facts["attention"]],
            embedding_dim=self.facts["width"],
            learning_rate=learning_rate,
            optimizer="adam",
            loss="binary_crossentropy",
            metrics=["AUC"],
            verbose=0,
            model_root=str(self.folder),
        )
        self.model._max_gradient_norm, self.model._batch_index = 10.0, 0
        self.model.train()
        self.batches = None

    def _feature_map(self, meta, sequences=False):
        made = FeatureMap("bench", str(self.folder))
        made.features = OrderedDict((name, {"type": kind, "source": ""}) for name, kind in meta.items())
        for name, (rows, source) in self.facts["fields"].items():
            spec = {"type": "categorical", "source": source, "vocab_size": rows, "padding_idx": 0}
            made.features[name] = spec
            if sequences and source == "item":
                made.features[f"{name}_seq"] = {**spec, "type": "sequence", "max_len": self.facts["history"]}
        made.labels, made.default_emb_dim = ["label"], self.facts["width"]
        made.num_fields = made.get_num_fields()
        made.set_column_index()
        return made

    def loader(self, rows, shuffle):
        """The loader that is shipped with this model: behaviors once per shopper, rows one by one."""
        path = [str(self.folder / f"{name}.parquet") for name in (rows, "user_info", "item_info")]
        return LongCTRDataLoader(
            self.map,
            *path,
            batch_size=self.facts["batch_size"],
            shuffle=shuffle,
            num_workers=0,
            max_len=self.max_len,
        )

    def train(self, steps):
        """Load some batches, then make a step on each; both timed."""
        if self.batches is None:
            self.batches = iter(self.loader("train", True))
        load = Clock()
        ready = [batch for batch, _ in zip(self.batches, range(steps), strict=False)]
        loaded, step, loss = load.read(), Clock(), 0.0
        for batch in ready:
            loss += self.model.train_step(batch).item()
        return {"load": loaded, "step": step.read(), "loss": loss / max(len(ready), 1), "steps": len(ready)}

    def load_flat(self, steps):
        """Time the general loader on rows with their histories written out; no training."""
        data = NpzDataLoader(
            self._feature_map({}, sequences=True),
            str(self.folder / "flat.npz"),
            batch_size=self.facts["batch_size"],
            shuffle=True,
            num_workers=0,
        )
        batches, clock = iter(data), Clock()
        for _ in range(steps):
            next(batches)
        return {"load": clock.read(), "steps": steps}

    def predict(self):
        """Scores of the test rows, into `scores.npy`."""
        np.save(self.folder / "scores.npy", self.model.predict(self.loader("test", False)))
        self.model.train()
        return {}

    def prepare(self):
        """Time the preprocessing from text to integers: its own functions, called without Ray around them.

        Ray's workers and the file it writes at the end would come on top.
        """
        text, integers = {"active": True, "dtype": "str"}, []
        for name, (_, source) in self.facts["fields"].items():
            integers.append({**text, "name": name, "type": "categorical", "source": source})
            if source == "item":
                spec = {"type": "sequence", "splitter": "^", "max_len": self.facts["history"]}
                integers.append({**text, **spec, "name": f"{name}_seq", "share_embedding": name})
        label = {"name": "label", "dtype": "float"}
        processor = FeatureProcessor(integers, label, dataset_id="prepared", data_root=str(self.folder))
        clock = Clock()
        rows = processor.preprocess(processor.read_data(str(self.folder / "text.csv")))
        processor.fit(rows)
        made = processor.transform(
            {name: column.to_numpy() for name, column in rows.collect().to_dict().items()}
        )
        assert len(made["label"]) == self.facts["text_rows"]
        return {"prepare": clock.read(), "rows": self.facts["text_rows"]}

    def peak(self):
        """Highest memory of this process, MiB."""
        status = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss would start at the parent's
        return {"peak_mib": next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024}


class Clock:
    """Seconds since it was made: on the wall and of the processor."""

    def __init__(self):
        self.start = time.perf_counter(), time.process_time()

    def read(self):
        """[wall, processor] seconds."""
        return [time.perf_counter() - self.start[0], time.process_time() - self.start[1]]


def main():
    """Answer commands until the input ends."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    answers, peer = sys.stdout, None
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            command = json.loads(line)
            name = command.pop("do")
            if name == "open":
                peer, answer = Peer(**command), {}
            else:
                answer = getattr(peer, name)(**command)
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
