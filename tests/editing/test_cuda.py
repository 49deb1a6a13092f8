"""The same on a GPU as on the processor, and no tensor on the wrong side. `make gpu` runs it."""

import shutil
from dataclasses import replace

import pytest
import torch

from editing.editor import Editor
from editing.facts import Fact
from editing.methods import METHODS
from editing.methods.interference import WARM_UP
from editing.methods.published import numbers
from editing.model.says import says
from editing.solve.second_moment import Sums, second_moments
from editing.values.options import ValueOptions
from editing.values.search import optimise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]

LAYER = 3
MORE = [Fact("Mia", "The sister of {} likes", "tea", "g1"), Fact("Mia", "The sister of {} is", "Eve", "g2")]


@pytest.fixture(scope="module")
def on(checkpoint, tmp_path_factory):
    """Opens an editor on "cpu" or "cuda"; both have the same contexts."""
    folders = {device: tmp_path_factory.mktemp(device) for device in ("cpu", "cuda")}

    def opened(device: str, method: str = "memit-seq", **choices) -> Editor:
        found = numbers(method, "llama", 32, 64, 8)
        choices = {"options": ValueOptions(steps=5), "anchor": "none"} | choices
        choices["numbers"] = found.changed(nullspace_threshold=0.5, pilots=6)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
            return Editor.open(
                str(checkpoint), state_dir=folders[device], dtype="float32", method=method, **choices
            )

    install = opened("cpu").install
    shutil.copytree(install.directory, folders["cuda"] / "installed" / install.directory.name)
    return opened


@pytest.fixture(scope="module")
def both(on):
    editors = on("cpu"), on("cuda")
    assert [editor.loaded.device.type for editor in editors] == ["cpu", "cuda"]
    return editors


VARIANTS = {
    "memit": {},
    "encore": {"finish": "argmax", "extra": 2},
    "pmet": {"finish": "preserved", "attention": True},
    "eac": {"compressed": True, "steps": 16, "kept": 0.2},
    "deltaedit": {"finish": "probable"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_are_those_of_the_processor(both, facts, variant):
    options = ValueOptions(**({"steps": 6, "rate": 0.1} | VARIANTS[variant]))
    contexts = ["", "The sky. "]
    ours, theirs = (
        optimise(editor.loaded, [*facts, *MORE], LAYER, contexts, options, merged=True)
        for editor in reversed(both)
    )
    for name in ("delta", "hidden", "output", "loss"):
        found = getattr(ours, name)
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), getattr(theirs, name), atol=1e-3, rtol=1e-3)


def test_moments_are_those_of_the_processor(both):
    text = torch.randint(0, 257, (40, 64), generator=torch.Generator().manual_seed(0))
    found = []
    for editor in both:
        *_, sums = second_moments(editor.loaded, text, Sums.none(editor.loaded, [2, LAYER]))
        found.append(sums.moment(LAYER))
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=1e-4)


def test_an_installation_of_its_own_repeats_its_bits(on, both, tmp_path):
    folders, cuda = [], both[1]
    for name in ("first", "second"):
        install = type(cuda.install)(cuda.loaded, tmp_path / name, None, lambda _stage, _fraction: None)
        moment = install.moments([LAYER])[LAYER]
        assert moment.device.type == "cpu"
        folders.append((install.contexts(), moment))
    assert folders[0][0] == folders[1][0]
    assert torch.equal(folders[0][1], folders[1][1])


@pytest.mark.parametrize("method", METHODS)
def test_facts_are_written_restored_and_taken_out(on, facts, method):
    editor = on("cuda", method)
    base = editor.weight_hashes()
    for batch in (facts, MORE):
        assert editor.apply(batch).ids == tuple(fact.id for fact in batch)
    hashes, state = editor.weight_hashes(), editor.state
    tensors = [x for pair in state.factors.values() for x in pair] + list(state.columns.values())
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    if method not in ("ft", "lora"):
        editor.retract("f2", "g1")
        editor.compact()
    editor.restore(state)
    assert editor.weight_hashes() == hashes
    for name, weight in editor.weights().items():
        served = editor.model.get_parameter(name)
        assert served.device.type == "cuda"
        assert torch.equal(served.cpu(), weight)
    assert says(editor.loaded, facts) == [says(editor.loaded, [fact])[0] for fact in facts]
    editor.retract(*editor.state.ids)
    assert editor.weight_hashes() == base


@pytest.mark.parametrize("anchor", ["nas", "nas-cap"])
@pytest.mark.parametrize("protect", ["revive", "revive-after"])
def test_anchored_and_protected_weights_are_near_those_of_the_processor(on, facts, anchor, protect):
    choices = {"placement": "boundary", "anchor": anchor, "protect": protect}
    choices["options"] = ValueOptions(steps=5, rate=0.1, unedited=True)
    found = []
    for device in ("cpu", "cuda"):
        editor = on(device, **choices)
        editor.apply(facts)
        found.append(editor.weights())
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, atol=1e-3, rtol=1e-3)


def test_directions_are_barred_on_the_device_of_the_values(on, facts):
    editor = on("cuda", "deltaedit")
    editor.numbers = editor.numbers.changed(deviations=1e-6)
    editor.apply(facts)
    name = f"interference/{editor.layers[-1]}"
    state = editor.state
    copies = [replace(f, id=f"{f.id}-{i}") for i in range(-(-WARM_UP // len(facts))) for f in state.facts]
    columns = {key: x.repeat(1, len(copies) // len(facts)) for key, x in state.columns.items()}
    columns[name] = 1.0 + 0.001 * (torch.arange(len(copies)) % 2)[None]
    editor.restore(replace(state, facts=tuple(copies), columns=columns))
    assert editor.apply(MORE[:1]).ids == ("g1",)
