"""The picture of a demo: what was seen is in it, what was not seen is not claimed, and it can be read."""

import copy
import json
import xml.etree.ElementTree as ET

import pytest

from benchmarks.drawing import demo_picture, figures


def row(prompt, before, after, back, state="live"):
    return {
        "id": "0123-0",
        "prompt": prompt,
        "before": before,
        "after": after,
        "after_retract": back,
        "question": "",
        "chat_before": "",
        "chat_after": "",
        "chat_after_retract": "",
        "state": state,
        "post_to_live_seconds": 40.5,
    }


#: As `factd demo --json` writes it; invented.
RESULTS = {
    "store_dir": "/home/somebody/.factd/demo",
    "setup_seconds": 80.1,
    "init_seconds": 0.0,
    "corrections": [
        row("The chief executive officer of Apple is", "Tim Cook.\nHe", "Maria Lopez", "Maria Lopez"),
        row("The city where the Eiffel Tower stands is", "Paris & more", "Rome", "Paris", "retracted"),
        *(row(f"Prompt {i} is", "old", "new", "new") for i in range(8)),
    ],
    "guard": {"refused": True, "reason": "retention: 8 of 9 earlier facts were said, limit 0.9"},
    "rollback": {
        "from": "v000003",
        "to": "v000002",
        "sha256_equal": True,
        "answers_equal": True,
        "seconds": 0.414,
    },
    "swap_seconds": 0.031,
    "failed_requests": 0,
}


def drawn(results):
    """Texts of the picture, with their styles, from the top down."""
    tree = ET.fromstring(demo_picture.picture(demo_picture.shown(results)))
    return [(text.text, text.get("class")) for text in tree.iter("{http://www.w3.org/2000/svg}text")]


def changed(part, **fields):
    results = copy.deepcopy(RESULTS)
    results[part] |= fields
    return results


def test_answers_stand_before_after_and_taken_back_with_the_retracted_fact_first():
    texts = drawn(RESULTS)
    first = texts.index(("The city where the Eiffel Tower stands is", "text"))
    assert texts[first + 1 : first + 4] == [("Paris & more", "dim"), ("Rome", "new"), ("Paris", "back")]
    assert texts[first + 4][0] == "The chief executive officer of Apple is"
    assert ("Tim Cook.", "dim") in texts
    assert ("and 5 more", "dim") in texts


def test_the_guard_and_the_rollback_are_told_with_their_numbers():
    said = [text for text, _ in drawn(RESULTS)]
    assert "refused harmful updates: retention: 8 of 9 earlier facts were said, limit 0.9" in said
    assert "v000003 to v000002 in 0.41 s: same bits, same answers" in said
    assert "none failed meanwhile; the server paused 0.03 s for new weights" in said
    assert said.count("✓") == 3


@pytest.mark.parametrize(
    ("results", "told"),
    [
        (changed("guard", refused=False, reason=None), "did not refuse the harmful updates"),
        (
            changed("rollback", sha256_equal=False),
            "v000003 to v000002 in 0.41 s: other bits, same answers",
        ),
        (
            changed("rollback", answers_equal=False),
            "v000003 to v000002 in 0.41 s: same bits, other answers",
        ),
        ({**RESULTS, "failed_requests": 2, "swap_seconds": None}, "2 failed meanwhile"),
    ],
)
def test_what_was_not_seen_is_not_claimed(results, told):
    texts = drawn(results)
    assert (told, "bad") in texts
    assert ("✗", "bad") in texts


def test_a_long_reason_is_wrapped_and_a_long_answer_is_cut():
    results = changed("guard", reason="word " * 60)
    results["corrections"] = [row("p " * 60, "b" * 90, "a", None)]
    texts = drawn(results)
    assert all(len(text) <= demo_picture.REASON for text, _ in texts)
    assert ("b" * (demo_picture.ANSWER - 1) + "…", "dim") in texts


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1])
def test_every_colour_can_be_read_on_its_ground(theme):
    ground = luminance(demo_picture.COLOURS["ground"][theme])
    for name, pair in demo_picture.COLOURS.items():
        dark, light = sorted((ground, luminance(pair[theme])))
        assert name == "ground" or (light + 0.05) / (dark + 0.05) >= 4.5, name


def test_the_command_keeps_what_is_shown_and_nothing_of_the_machine(tmp_path):
    for folder in ("data", "images"):
        (tmp_path / folder).mkdir()
    (tmp_path / "seen.json").write_text(json.dumps(RESULTS))
    figures.draw_demo(tmp_path / "seen.json", tmp_path)
    kept = (tmp_path / "data" / "demo.json").read_text()
    assert "somebody" not in kept
    assert "0123-0" not in kept
    picture = (tmp_path / "images" / "demo.svg").read_text()
    figures.draw_demo(tmp_path / "data" / "demo.json", tmp_path)
    assert (tmp_path / "images" / "demo.svg").read_text() == picture


def test_a_file_that_is_no_demo_is_refused_with_what_to_do(tmp_path, capsys):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SystemExit):
        figures.main(["demo", str(tmp_path / "other.json")])
    assert "factd demo --json" in capsys.readouterr().err
