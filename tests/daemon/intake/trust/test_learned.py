"""What live targets teach: a surprise is measured against what is usual for the prompt."""

from daemon.intake.trust.learned import (
    FEWEST_FACTS,
    FEWEST_OF_A_RIVAL,
    SURELY_SPREADS,
    USUAL_SPREADS,
    Targets,
    features,
)

FIRST = ("Ada", "Ole", "Ivo", "Una", "Lena", "Rui")
LAST = ("Kerano", "Lindal", "Morek", "Vasson", "Brandt", "Horak")
PEOPLE = [f"{first} {last}" for first in FIRST for last in LAST]
LEAGUES = [f"{last} {what}" for last in LAST for what in ("League", "First Division", "Liga", "Cup")]
COACH, CAPTAIN, PLAYS = "coach", "captain", "plays"


def taught(**known):
    return Targets((name, target) for name, targets in known.items() for target in targets)


def mixed(half):
    """Half of the people, with all first and all last names in it."""
    return [one for place, one in enumerate(PEOPLE) if (place // len(LAST) + place) % 2 == half]


def test_a_target_of_another_kind_surprises_and_one_of_the_same_does_not():
    found = taught(coach=PEOPLE[:20], plays=LEAGUES)
    assert found.surprise(COACH, "Ole Vasson")[0] < USUAL_SPREADS
    spreads, other = found.surprise(COACH, "Lindal First Division")
    assert spreads >= SURELY_SPREADS
    assert other == PLAYS


def test_two_prompts_of_people_do_not_speak_against_each_others_targets():
    found = taught(coach=mixed(0), captain=mixed(1), plays=LEAGUES)
    held = [target for target in mixed(1) if found.surprise(COACH, target)[0] >= SURELY_SPREADS]
    assert held == []
    assert found.surprise(CAPTAIN, "Morek Liga")[0] >= SURELY_SPREADS


def test_a_prompt_of_few_facts_surprises_nobody_and_a_rival_of_few_says_nothing():
    few = taught(coach=PEOPLE[: FEWEST_FACTS - 1], plays=LEAGUES)
    assert few.surprise(COACH, "Lindal First Division") == (0.0, "")
    assert taught(coach=PEOPLE[:FEWEST_FACTS], plays=LEAGUES).surprise(COACH, "Lindal Liga")[0] > 0
    rival = taught(coach=PEOPLE, plays=LEAGUES[: FEWEST_OF_A_RIVAL - 1])
    assert rival.surprise(COACH, "Lindal Liga") == (0.0, "")
    assert Targets(()).surprise(COACH, "Ada Kerano") == (0.0, "")


def test_the_order_of_the_facts_changes_nothing():
    known = [(COACH, one) for one in PEOPLE] + [(PLAYS, one) for one in LEAGUES]
    one, two = Targets(known).surprise(COACH, "Horak Cup"), Targets(known[::-1]).surprise(COACH, "Horak Cup")
    assert abs(one[0] - two[0]) < 1e-9


def test_features_name_words_parts_shapes_and_kinds():
    found = features("FC Oslo 1901")
    assert {"#3", "=oslo", "-slo", "+^osl", "+slo$", "~A", "~Aa", "~94", "<A", ">94"} <= set(found)
    assert any(one.startswith("kclub") for one in found)
    assert features("Осло")[-1] != features("Oslo")[-1]
