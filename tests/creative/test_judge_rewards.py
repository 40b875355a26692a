"""Rewards of the judge, the annotator's rubric, rejection sampling's filter: by value."""

import random

import pytest
from judge_parts import a_pair

from moontide.creative.annotate import (
    BANDS,
    PHRASES,
    AnnotatorSettings,
    Make,
    annotate,
    answers,
    reason_words,
)
from moontide.creative.protocol import SCORED, balance, canonical_text, parse
from moontide.creative.rationale import (
    Rationale,
    balanced,
    in_order,
    labels_only,
    read_rationales,
    write_rationales,
)
from moontide.creative.rejection import refusal
from moontide.creative.rewards import (
    NAMES,
    JudgeRewardSettings,
    r_acc,
    r_fmt,
    r_ord,
    r_q,
    r_self,
    reward_functions,
    total,
    zero_variance_share,
)
from moontide.foundation.errors import DataError, SettingsError

NINE = ("Q1", "Q2", *SCORED)
FOR_A = {"Q1": "NO", "Q2": "NO", **dict.fromkeys(SCORED, "A=B"), "Q8": "A>B"}
GOOD = canonical_text(FOR_A, {}, "A")
EVEN = canonical_text(FOR_A | {"Q9": "A<B"}, {}, "A")
CROSS = canonical_text(FOR_A, {}, "B")
OPEN = "<think>Q1: NO Q8: A>B because larger"
LARGE = Make(0.75, 0.0, 0, "", 0.0, 1.0)
SMALL = Make(0.4, 0.1, 4, "HOT", 3.0, 0.0)


def chat(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def test_form_is_rewarded_only_in_the_strict_form():
    assert r_fmt([GOOD, OPEN, "A", "<answer>A</answer>", GOOD + " thanks"]) == [1, 0, 0, 0, 0]
    assert r_fmt([chat(GOOD), chat("")]) == [1, 0]


def test_accuracy_follows_the_label_and_may_be_weighted_by_its_confidence():
    assert r_acc([GOOD, GOOD, CROSS, OPEN], letter=["A", "B", "B", "A"]) == [1, 0, 1, 0]
    assert r_acc([GOOD, CROSS], letter=["A", "A"], label_confidence=[0.7, 0.7]) == [0.7, 0]


def test_a_completion_that_never_closes_its_tag_earns_its_answers_alone():
    assert r_fmt([OPEN]) == r_acc([OPEN], letter=["A"]) == r_self([OPEN]) == [0]
    assert r_q([OPEN], questions=NINE) == [pytest.approx(2 / 9)]


def test_questions_count_only_with_an_allowed_answer_inside_the_reasoning():
    assert r_q([GOOD], questions=NINE) == [1]
    assert r_q(["<think>Q1: MAYBE Q2: A>B Q3: A>B</think><answer>A</answer>"], questions=NINE) == [
        pytest.approx(1 / 9)
    ]
    assert r_q(["<think>x</think><answer>A</answer> Q1: NO"], questions=NINE) == [0]


def test_consistency_is_half_where_the_answers_balance_and_nothing_without_answers():
    assert r_self([GOOD, CROSS, EVEN]) == [1, 0, 0.5]
    assert r_self(["<think>hm</think><answer>A</answer>"]) == [0]


def test_order_reward_is_one_for_a_policy_that_names_the_same_picture_and_zero_for_the_same_place():
    ids, ways = ["p"] * 4 + ["q"], ["ab", "ab", "ba", "ba", "ab"]
    blind = [GOOD, GOOD, CROSS, CROSS, GOOD]
    assert r_ord(blind, pair_id=ids, order=ways) == [1, 1, 1, 1, None]
    assert r_ord([GOOD] * 5, pair_id=ids, order=ways) == [0, 0, 0, 0, None]
    assert r_ord([GOOD, OPEN, CROSS, GOOD, GOOD], pair_id=ids, order=ways) == [0.5, 0, 0.5, 0, None]


def test_rewards_stay_in_range_for_any_text():
    rng = random.Random(0)
    pieces = [
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "A",
        "B",
        "Q3: A>B ",
        "Q11:",
        "because",
        "\n",
        " ",
    ]
    texts = ["".join(rng.choices(pieces, k=rng.randrange(12))) for _ in range(200)]
    for function in reward_functions(JudgeRewardSettings(), NINE):
        earned = function(
            completions=texts, letter=["A"] * 200, label_confidence=[0.9] * 200,
            pair_id=["p"] * 200, order=["ab", "ba"] * 100,
        )  # fmt: skip
        assert all(value is None or 0 <= value <= 1 for value in earned)


def test_functions_bear_the_names_and_weights_of_the_terms():
    settings = JudgeRewardSettings(order=0.2)
    assert [one.__name__ for one in reward_functions(settings, NINE)] == list(NAMES)
    assert settings.weights == [0.5, 1.0, 0.1, 0.0, 0.2]
    parts = dict(zip(NAMES, ([1.0], [0.0], [0.5], [1.0], [None]), strict=True))
    assert total(parts, settings) == [pytest.approx(0.55)]
    with pytest.raises(SettingsError, match="every weight is 0"):
        JudgeRewardSettings(fmt=0, accuracy=0, questions=0)


def test_confidence_weights_accuracy_only_where_asked():
    columns = {"letter": ["A"], "label_confidence": [0.6]}
    plain, weighted = (
        reward_functions(JudgeRewardSettings(has_confidence=has), NINE)[1] for has in (False, True)
    )
    assert (plain(completions=[GOOD], **columns), weighted(completions=[GOOD], **columns)) == ([1], [0.6])


def test_zero_variance_share_counts_groups_that_teach_nothing():
    assert zero_variance_share([1, 1, 0, 1, 0.5, 0.5], 2) == pytest.approx(2 / 3)


# --- annotator --------------------------------------------------------------------------------------------


def test_exchanging_the_creatives_turns_every_comparison_round():
    forward, backward = answers(LARGE, SMALL), answers(SMALL, LARGE)
    turned = {"A>B": "A<B", "A<B": "A>B", "A=B": "A=B"}
    assert {key: turned[forward[key]] for key in SCORED} == {key: backward[key] for key in SCORED}
    assert forward["Q8"] == forward["Q6"] == forward["Q9"] == "A>B"
    assert balance(forward) > 0


def test_ties_and_missing_texts_are_even_and_the_same_pictures_are_named():
    assert balance(answers(LARGE, LARGE)) == 0
    assert answers(LARGE, LARGE)["Q2"] == "YES"
    without = answers(LARGE, SMALL, has_queries=False, has_title=False)
    assert without["Q3"] == without["Q4"] == "A=B"
    assert answers(LARGE, LARGE, is_same=True)["Q1"] == "YES"
    nearly = Make(LARGE.size - BANDS["Q8"] / 2, 0.0, 0, "", 0.0, 1.0)
    assert answers(LARGE, nearly)["Q8"] == "A=B"


def test_the_plain_main_picture_needs_no_parameters_and_others_do():
    assert Make.of("plain", {}).num_props == 0
    with pytest.raises(DataError, match="creative parameters of template 'busy' cannot be read"):
        Make.of("busy", {"background": "shelf"})


def made(creative_id: str) -> Make:
    return LARGE if creative_id.endswith("0") else SMALL


def test_rationales_never_depend_on_the_label_but_for_letter_and_acceptance():
    right, wrong = (annotate([a_pair(label=label)], made, AnnotatorSettings()) for label in "AB")
    assert [one.answers for one in right] == [one.answers for one in wrong]
    assert [one.accepted for one in right] == [True, True]
    assert [one.accepted for one in wrong] == [
        False,
        False,
    ]
    assert wrong[0].reason == "balance contradicts the label"
    assert [one.letter for one in right] == ["A", "B"]
    assert [one.letter for one in wrong] == ["B", "A"]


def test_an_annotation_reads_back_as_written_and_gives_reasons_for_decisive_questions_only():
    for one in annotate([a_pair()], made, AnnotatorSettings(num_reasons=2)):
        reading = parse(one.text)
        assert reading.letter_strict == one.letter
        assert one.provenance == "annotator"
        assert {key: reading.answers[key] for key in NINE} == one.answers
        assert len(reading.reasons) == 2
        assert all(
            reading.answers[key] != "A=B" and said in PHRASES[key] for key, said in reading.reasons.items()
        )


def test_phrasings_vary_over_pairs_and_their_words_are_known():
    pairs = [a_pair(pair_id=f"p{n}") for n in range(40)]
    texts = [one.text for one in annotate(pairs, made, AnnotatorSettings())]
    assert len(set(texts)) > 20
    assert texts == [one.text for one in annotate(pairs, made, AnnotatorSettings())]
    assert all(len(phrase.split()) <= 3 for phrases in PHRASES.values() for phrase in phrases)
    assert {word for text in texts for word in text.split() if word.islower()} <= {*reason_words()}


def test_reasons_are_dropped_until_a_completion_fits():
    short = annotate([a_pair()], made, AnnotatorSettings(), fits=lambda text: "because" not in text)
    assert all("because" not in one.text for one in short)
    with pytest.raises(DataError, match="raise max_tokens"):
        annotate([a_pair()], made, AnnotatorSettings(), fits=lambda text: False)


def test_questions_left_out_are_not_answered():
    one = annotate([a_pair()], made, AnnotatorSettings(without=("Q5", "Q8")))[0]
    assert "Q5" not in one.text
    assert "Q8" not in one.text
    assert "Q6" in one.text


def test_balancing_leaves_as_many_a_as_b_and_is_the_same_every_time():
    ones = [Rationale(f"p{n}", "ab", "A" if n < 7 else "B", {}, "x", "rejection") for n in range(10)]
    kept = balanced(ones, seed=1)
    assert [one.letter for one in kept].count("A") == [one.letter for one in kept].count("B") == 3
    assert kept == balanced(ones, seed=1)
    assert balanced([], seed=1) == []


def test_letters_follow_the_order_shown():
    assert [in_order(letter, order) for order in ("ab", "ba") for letter in ("A", "B")] == [
        "A",
        "B",
        "B",
        "A",
    ]
    assert [one.text for one in labels_only([a_pair()])] == ["<answer>A</answer>", "<answer>B</answer>"]


def test_rationales_survive_their_file_and_a_broken_line_is_named(tmp_path):
    found = annotate([a_pair()], made, AnnotatorSettings())
    write_rationales(tmp_path / "r.jsonl", found)
    assert read_rationales(tmp_path / "r.jsonl") == found
    (tmp_path / "r.jsonl").write_text('{"pair_id": 1}\n')
    with pytest.raises(DataError, match="line 1 is no rationale"):
        read_rationales(tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    ("text", "why"),
    [(GOOD, ""), (EVEN, ""), (OPEN, "not in the strict form"), (CROSS, "names the other creative"),
     (canonical_text(FOR_A | {"Q8": "A<B"}, {}, "A"), "balance contradicts the letter"),
     (canonical_text({"Q8": "A>B"}, {}, "A"), "leaves a question open")],
)  # fmt: skip
def test_a_sampled_rationale_is_kept_only_where_it_leads_to_the_label(text, why):
    assert refusal(text, "A", NINE) == why
