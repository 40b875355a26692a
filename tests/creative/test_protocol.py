"""The protocol: what both readers take, and that what is written is read back the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moontide.creative.protocol import (
    COMPARISONS,
    GATES,
    QUESTIONS,
    SCORED,
    balance,
    canonical_text,
    is_consistent,
    parse,
)

CANONICAL = (
    "<think>Q1: NO Q2: NO Q3: A>B because clearer match Q4: A=B Q5: A<B Q6: A=B Q7: A>B Q8: A>B Q9: A=B "
    "Q10: A</think><answer>A</answer>"
)
ANSWERS = {
    "Q1": "NO", "Q2": "NO", "Q3": "A>B", "Q4": "A=B", "Q5": "A<B", "Q6": "A=B", "Q7": "A>B", "Q8": "A>B",
    "Q9": "A=B", "Q10": "A",
}  # fmt: skip


def test_there_are_ten_questions_two_gates_and_seven_comparisons():
    assert [question.key for question in QUESTIONS] == [f"Q{number}" for number in range(1, 11)]
    allowed = {question.key: question.allowed for question in QUESTIONS}
    assert {allowed[key] for key in GATES} == {("YES", "NO")}
    assert {allowed[key] for key in SCORED} == {COMPARISONS}
    assert allowed["Q10"] == ("A", "B")


def test_the_canonical_text_is_read_strictly_with_all_ten_answers():
    reading = parse(CANONICAL)
    assert (reading.letter_strict, reading.letter_lenient) == ("A", "A")
    assert reading.answers == ANSWERS
    assert reading.reasons == {"Q3": "clearer match"}


@pytest.mark.parametrize(
    "text",
    [
        "<think>Q1: NO</think> \n <answer> B\n</answer>\n",
        "<think>several\nlines</think><answer>B</answer>",
    ],
)
def test_the_strict_reader_takes_blanks_and_line_breaks(text):
    assert parse(text).letter_strict == "B"


@pytest.mark.parametrize(
    ("text", "lenient"),
    [
        ("Q1: NO <answer>A</answer>", "A"),  # no reasoning
        ("<think>Q1: NO</think>A", "A"),  # no answer tag
        ("<think></think><answer>A</answer>", "A"),  # nothing reasoned
        ("<think>Q1: NO</think><answer>A</answer><answer>B</answer>", "B"),  # two answers
        ("<think>Q1: NO <answer>A</answer></think><answer>B</answer>", "B"),  # one inside the reasoning
        ("<think>Q1: NO</think><answer>a</answer>", "A"),  # lower case
        ("<think>Q1: NO</think><answer>A</answer> I am sure", "A"),  # trailing words
        ("so <think>Q1: NO</think><answer>A</answer>", "A"),  # leading words
        ("<think>Q1: NO</think>so<answer>A</answer>", "A"),  # words between
        ("<think>Q1: NO</think><answer>A or B</answer>", None),
        ("<think>Q1: NO</think><answer></answer>", None),
        ("<think>Q1: NO</think><answer>C</answer>", None),
        ("Creative B.", "B"),
        ("I like creative a", None),
        ("<think>Q1: NO Q3: A", None),  # cut off: the start of A>B
        ("<think>Q3: A>B", None),
        ("the score is A>B", None),
        ("ABBA", None),
        ("", None),
    ],
)
def test_what_is_not_strict_may_be_read_leniently(text, lenient):
    assert parse(text).letter_strict is None
    assert parse(text).letter_lenient == lenient


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "A", "B", " ", "\n", "x", "Q3: A>B"])
    )
)
def test_the_lenient_reader_agrees_with_the_strict_one_wherever_that_reads(pieces):
    reading = parse("".join(pieces))
    assert reading.letter_strict in (None, reading.letter_lenient)
    assert set(reading.answers) == set(ANSWERS)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("Q3: A>B", "A>B"),
        ("Q3:A<B", "A<B"),
        ("Q3: A > B, larger", "A>B"),
        ("Q3: YES", None),
        ("Q3: A", None),
        ("Q3: A>>B", None),
        ("Q3: A>Better", None),
        ("Q3: B>A", None),
        ("Q3: a>b", None),
        ("Q3:", None),
        ("Q3 A>B", None),
        ("Q33: A>B", None),
    ],
)
def test_a_value_that_is_not_allowed_is_null(said, answer):
    assert parse(f"<think>Q1: NO {said} Q4: A=B</think><answer>A</answer>").answers["Q3"] == answer


def test_answers_count_inside_the_reasoning_alone_and_the_last_of_two_counts():
    assert parse("Q3: A>B <think>Q4: A=B</think> Q5: A<B").answers["Q3"] is None
    assert parse("Q3: A>B <think>Q4: A=B</think> Q5: A<B").answers["Q5"] is None
    twice = parse("<think>Q3: A>B because larger Q3: A<B</think><answer>A</answer>")
    assert (twice.answers["Q3"], twice.reasons) == ("A<B", {})
    assert parse("<think>Q1: NO Q3: A>B because it").answers["Q3"] == "A>B"  # cut off


def test_the_letter_answers_the_tenth_question_where_the_reasoning_does_not():
    assert parse("<think>Q1: NO</think><answer>B</answer>").answers["Q10"] == "B"
    assert parse("<think>Q1: NO Q10: A</think><answer>B</answer>").answers["Q10"] == "A"


words = st.text(alphabet="abc ,.:;<>=Q13AB-", max_size=20)
answer_maps = st.fixed_dictionaries(
    {question.key: st.sampled_from([None, *question.allowed]) for question in QUESTIONS}
)


@given(answer_maps, st.dictionaries(st.sampled_from(SCORED), words), st.sampled_from("AB"))
def test_whatever_is_written_is_read_back_the_same(answers, reasons, letter):
    text = canonical_text(answers, reasons, letter)
    reading = parse(text)
    if any(answers.values()):
        assert reading.letter_strict == letter
    assert {key: reading.answers[key] for key in SCORED} == {key: answers[key] for key in SCORED}
    assert canonical_text(reading.answers | {"Q10": answers["Q10"]}, reading.reasons, letter) == text


def test_balance_sums_the_comparisons_and_leaves_out_gates_and_decision():
    assert balance(ANSWERS) == 2
    assert balance({"Q1": "YES", "Q10": "A"}) == 0
    assert balance(dict.fromkeys(SCORED, "A<B")) == -7


@pytest.mark.parametrize(("letter", "agrees"), [("A", 1.0), ("B", 0.0)])
def test_a_letter_follows_from_the_answers_or_contradicts_them(letter, agrees):
    assert is_consistent(ANSWERS, letter) == agrees
    assert is_consistent({"Q3": "A>B", "Q4": "A<B"}, letter) == 0.5


@given(answer_maps)
def test_turning_every_comparison_round_turns_the_balance(answers):
    turned = {"A>B": "A<B", "A<B": "A>B"}
    other = {key: turned.get(value, value) for key, value in answers.items()}
    assert balance(other) == -balance(answers)
    assert is_consistent(other, "A") == is_consistent(answers, "B")
