"""`turnout plan` says what the distribution says, in words that people can read, and what cannot be."""

from __future__ import annotations

import argparse
import json

import pytest

from kernels.passage import clearing, finding, finding_paired
from serving import cli_plan
from serving.mistake import Mistake


@pytest.fixture
def plan(capsys):
    """Run the verb; return its exit code and its lines."""
    parser = argparse.ArgumentParser("turnout")
    verbs = parser.add_subparsers(required=True)

    def add(name, answer, purpose):
        verb = verbs.add_parser(name, help=purpose)
        verb.set_defaults(answer=answer)
        return verb

    cli_plan.add_plan(add)

    def run(*words: str) -> tuple[int, list[str]]:
        arguments = parser.parse_args(["plan", *words])
        code = arguments.answer(arguments)
        return code, capsys.readouterr().out.splitlines()

    return run


ERRORS = ("--base", "0.1%", "--regressed", "1%")


class TestNumbers:
    def test_they_are_those_of_the_distribution(self, plan):
        code, (line,) = plan(*ERRORS, "--weight", "5%", "--alpha", "5%", "--json")
        said = json.loads(line)
        found = finding(0.001, 0.01, 0.05, alpha=0.05)
        cleared = clearing(0.001, 0.05, ratio=10, alpha=0.05)
        assert code == 0 and said["unit"] == "requests" and said["ratio"] == pytest.approx(10)
        assert said["found"]["needed"] == {"p50": found.requests(0.5), "p90": found.requests(0.9)}
        assert said["cleared"]["needed"] == {"p50": cleared.requests(0.5), "p90": cleared.requests(0.9)}
        assert said["found"]["seconds"] == {"p50": None, "p90": None}

    def test_a_ratio_says_the_same_as_a_rate(self, plan):
        assert plan(*ERRORS) == plan("--base", "0.1%", "--ratio", "10")

    def test_a_tenth_is_the_weight_and_a_hundredth_the_rate_of_wrong_rollbacks_if_nothing_is_said(self, plan):
        assert plan(*ERRORS) == plan(*ERRORS, "--weight", "10%", "--alpha", "1%")

    def test_traffic_gives_time(self, plan):
        _, (line,) = plan(*ERRORS, "--per-second", "50", "--json")
        found = json.loads(line)["found"]
        assert found["seconds"]["p50"] == pytest.approx(found["needed"]["p50"] / 50)

    def test_requests_give_the_share_of_rollouts_in_which_they_are_enough(self, plan):
        _, (line,) = plan(*ERRORS, "--requests", "10000", "--json")
        within = json.loads(line)["found"]["within"]
        exact = finding(0.001, 0.01, 0.1, alpha=0.01).within(10_000)
        assert within == {"needed": 10_000, "share": pytest.approx(exact)}

    def test_metrics_that_are_judged_together_make_each_slower_to_find_and_none_slower_to_clear(self, plan):
        one, five = (json.loads(plan(*ERRORS, "--metrics", n, "--json")[1][0]) for n in ("1", "5"))
        expected = finding(0.001, 0.01, 0.1, alpha=0.002).requests(0.5)
        assert five["found"]["needed"]["p50"] == expected > one["found"]["needed"]["p50"]
        assert five["cleared"] == one["cleared"]

    def test_a_baseline_arm_is_all_that_the_canary_is_compared_with(self, plan):
        _, (line,) = plan(*ERRORS, "--baseline-arm", "--json")
        expected = finding(0.001, 0.01, 0.1, rest=0.1, alpha=0.01).requests(0.5)
        assert json.loads(line)["found"]["needed"]["p50"] == expected

    def test_what_is_tolerated_makes_it_slower(self, plan):
        _, (line,) = plan(*ERRORS, "--tolerance", "2", "--json")
        expected = finding(0.001, 0.01, 0.1, alpha=0.01, tolerance=2).requests(0.5)
        assert json.loads(line)["found"]["needed"]["p50"] == expected

    def test_a_shadow_is_planned_in_pairs(self, plan):
        code, (line,) = plan("--paired", "3%/1%", "--json")
        said = json.loads(line)
        assert code == 0 and said["unit"] == "pairs" and said["ratio"] == pytest.approx(3)
        assert said["found"]["needed"]["p50"] == finding_paired(0.03, 0.01, alpha=0.01).requests(0.5)

    def test_where_nothing_goes_wrong_yet_there_is_nothing_to_clear_by(self, plan):
        for words in (("--base", "0%", "--regressed", "1%"), ("--paired", "2%/0%")):
            code, (line,) = plan(*words, "--json")
            said = json.loads(line)
            assert code == 0 and said["ratio"] is None and said["cleared"] is None
            assert plan(*words)[0] == 0


class TestWords:
    def test_people_read_how_many_and_how_long(self, plan):
        code, lines = plan(*ERRORS, "--per-second", "50", "--requests", "10000")
        assert code == 0
        assert lines == [
            "canary of 10%, of whose requests 1% go wrong instead of 0.1%",
            "  found    after 5,131 requests in half of rollouts, 10,878 in 90%: 1 min 43 s and 3 min 38 s at 50 a second",
            "           in 86.9% of rollouts within 10,000",
            "  cleared  after 10,450 requests in half of rollouts, 20,381 in 90%: 3 min 29 s and 6 min 48 s at 50 a second",
            "           in 46.42% of rollouts within 10,000",
            "  wrongly  1% of good ones at most, however often one looks",
            "  Cleared is one that is as good as the other, by the evidence that it is not 10 times as bad.",
            "  Requests are all that the model gets, whoever answers.",
        ]

    def test_what_no_number_of_requests_finds_is_said_and_is_an_exit_code(self, plan):
        code, lines = plan("--base", "1%", "--ratio", "1.1")
        assert code == 1
        assert "never: 1.1 times as bad is too little" in lines[1] and "from 1.12 times on" in lines[1]
        code, (line,) = plan("--base", "1%", "--ratio", "1.1", "--json")
        assert code == 1 and json.loads(line)["found"]["feasible"] is False

    def test_what_takes_too_many_is_said_to_be_out_of_sight(self, plan):
        code, lines = plan("--base", "1%", "--ratio", "1.13", "--alpha", "0.0001%")
        assert code == 1
        assert "not in sight: more than 20,000 of them would have to go wrong" in lines[1]

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [
            (0.2, "1 s"),
            (59.5, "1 min"),
            (61, "1 min 1 s"),
            (7200, "2 h"),
            (7290, "2 h 1 min"),
            (10**9, "11,574 d 1 h"),
        ],
    )
    def test_times_have_their_two_largest_units(self, seconds, words):
        assert cli_plan._span(seconds) == words


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((), "say what goes wrong now and then"),
            (("--base", "1%"), "say what goes wrong now and then"),
            (("--regressed", "1%"), "say what goes wrong now and then"),
            (("--base", "1%", "--regressed", "1%"), "1% is no regression: it is not more than 1%"),
            (("--base", "0%", "--ratio", "3"), "0% is no regression"),
            ((*ERRORS, "--tolerance", "10"), "it is not more than 10 times 0.1%"),
            (("--base", "1%", "--ratio", "1000"), "1000 times 1% is more than 100%"),
            ((*ERRORS, "--weight", "0%"), "more than 0% and less than 100%"),
            ((*ERRORS, "--weight", "100%"), "more than 0% and less than 100%"),
            ((*ERRORS, "--weight", "60%", "--baseline-arm"), "no room for a baseline arm"),
            ((*ERRORS, "--alpha", "0%"), "the rate of wrong rollbacks to keep"),
            (("--paired", "3%/1%", *ERRORS), "--paired says all about a shadow"),
            (("--paired", "3%/1%", "--weight", "5%"), "are of a canary"),
            (("--paired", "1%/3%"), "1% is no regression: it is not more than 3%"),
            (("--paired", "60%/50%"), "are more than all of them"),
        ],
    )
    def test_what_makes_no_sense_together_is_said(self, plan, words, told):
        with pytest.raises(Mistake, match=told):
            plan(*words)

    @pytest.mark.parametrize(
        "words",
        [
            ("--base", "0.1"),
            ("--base", "101%"),
            ("--base", "nan%"),
            ("--base", "-1%"),
            ("--ratio", "0.5"),
            ("--ratio", "nan"),
            ("--paired", "3%"),
            ("--paired", "3/1"),
            ("--per-second", "0"),
            ("--per-second", "inf"),
            ("--requests", "0"),
            ("--requests", "1e5"),
            ("--metrics", "0"),
            ("--regressed", "1%", "--ratio", "2"),
        ],
    )
    def test_what_is_no_number_of_its_kind_is_refused(self, plan, words, capsys):
        with pytest.raises(SystemExit):
            plan(*words)
        assert "error: argument" in capsys.readouterr().err
