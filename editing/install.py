"""What is measured once on the unedited model and kept: contexts, second moments, anchors.

Kept under ``<state>/installed/<base hash>-<dtype>[-<corpus hash>]``, in files that name their token
count where it matters. Every stage is written when it is complete and long ones also in between, so an
interrupted installation goes on where it stopped, to the same bits.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from editing.errors import ModelError
from editing.facts import Fact
from editing.forms import PROMPT_ONLY, units
from editing.methods.parameters import Parameters
from editing.model.loaded import LoadedModel
from editing.moments import SEED, Moments, Source, replace_file
from editing.solve.second_moment import Progress, token_budget
from editing.typed import load_tensors, save_tensors
from editing.values.anchor import anchor_norm, pilot_facts
from editing.values.gradients import Gradients, gradients
from editing.values.options import ValueOptions
from editing.values.search import Values, optimise

#: MEMIT's seed words of the texts put before a prompt, and their length in tokens.
CONTEXT_SEEDS = ("The", "Therefore", "Because", "I", "You")
CONTEXT_TOKENS = 10


class Installation:
    """The statistics of one unedited model; computes what is missing.

    Args:
        loaded: the model, with its *unedited* weights whenever a method of this class is called.
        state_dir: where statistics are kept.
        corpus: text for the second moments; None lets the model write its own.
        progress: called with (stage, fraction done).
        tokens: how many tokens of text the moments are estimated from; None: 10 times the FFN's width.

    Raises:
        ModelError: the corpus cannot be read.
        OptionError: too few tokens.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        state_dir: Path,
        corpus: Path | None,
        progress: Progress,
        tokens: int | None = None,
    ) -> None:
        name = f"{loaded.base_hash[:16]}-{str(loaded.model.dtype).removeprefix('torch.')}"
        if corpus is not None:
            name += f"-{_file_hash(corpus)[:12]}"
        self.loaded, self.corpus, self.progress = loaded, corpus, progress
        self.tokens = token_budget(loaded, tokens)
        self.directory = Path(state_dir) / "installed" / name
        self.directory.mkdir(parents=True, exist_ok=True)
        self._moments = Moments(loaded, self.directory, corpus, progress, self.tokens)
        #: asked first for values that lack; keeps what it gets
        self.elsewhere: Callable[[Installation, Sequence[Fact], int, ValueOptions], None] | None = None

    def contexts(self) -> list[str]:
        """The empty text and one sampled text for each seed word, each ending in ". "."""
        path = self.directory / "contexts.json"
        if not path.exists():
            contexts = ["", *(_context(self.loaded, word, SEED) for word in CONTEXT_SEEDS)]
            replace_file(path, lambda p: p.write_text(json.dumps(contexts, indent=1), encoding="utf-8"))
        return json.loads(path.read_text(encoding="utf-8"))

    def moments(self, layers: Sequence[int], chat: bool = False) -> dict[int, Tensor]:
        """C [d_in, d_in] float64 of each layer; `chat`: most of it over chats."""
        return self._moments.of(layers, chat)

    def output_moments(self, layers: Sequence[int]) -> dict[int, Tensor]:
        """S [d, d] float64 of each layer: how the loss on text curves by a projection's output."""
        return self._moments.outputs(layers)

    def text(self, source: Source) -> Tensor:
        """The text, or the chats, that moments are estimated on, [rows, length] ids."""
        return self._moments.text(source)

    def anchor(self, layer: int, numbers: Parameters) -> float:
        """NAS's anchor of a layer for a method's numbers."""
        # A pilot has one form: what a value's length is measured against does not change with the forms.
        plain = replace(numbers.values, forms=PROMPT_ONLY, ends="open", lead=0.0)
        options = replace(plain, unedited=True, rows=0)
        contexts = self.contexts()[: numbers.anchor.pilot_contexts]
        key = hashlib.sha256(f"{options}|{numbers.anchor.pilots}|{contexts}|{SEED}".encode()).hexdigest()[:12]
        path = self.directory / f"anchor-{layer}-{key}.json"
        if not path.exists():
            pilots = numbers.anchor.pilots
            norm = anchor_norm(self.loaded, layer, plain, self.progress, pilots, contexts)
            content = {"layer": layer, "norm": norm, "pilots": numbers.anchor.pilots, "contexts": contexts}
            content |= {"options": str(options)}
            replace_file(path, lambda p: p.write_text(json.dumps(content, indent=1), encoding="utf-8"))
        return float(json.loads(path.read_text(encoding="utf-8"))["norm"])

    def gradients(self, layers: Sequence[int], count: int) -> Gradients:
        """Keys and gradients of so many pilot facts (as many as there are, at most) at each layer: what
        StableEdit's statistics begin with."""
        paths = {layer: self.directory / f"gradients-{layer}-{count}.safetensors" for layer in layers}
        missing = [layer for layer, path in paths.items() if not path.exists()]
        if missing and count:
            self.progress("gradients of pilot facts", 0.0)
            prompts = [self.loaded.encode(fact) for fact in pilot_facts(count)]
            for layer, (keys, own) in gradients(self.loaded, prompts, missing)[0].items():
                content = {"keys": keys, "gradients": own}
                replace_file(paths[layer], lambda p, c=content: save_tensors(p, c))
            self.progress("gradients of pilot facts", 1.0)
        if not count:
            none = torch.zeros(self.loaded.ffn_width, 0), torch.zeros(self.loaded.model.config.hidden_size, 0)
            return dict.fromkeys(layers, none)
        found = {layer: load_tensors(path)[0] for layer, path in paths.items()}
        return {layer: (each["keys"], each["gradients"]) for layer, each in found.items()}

    def values(self, facts: Sequence[Fact], layer: int, options: ValueOptions) -> Values:
        """Values of facts at a layer; those found before are read.

        A value here follows from its unit of facts alone, so that a batch that was interrupted, and
        methods that differ in how they write, need not look for it again. Its rounding, though, follows
        from the facts found beside it: a batch of which a killed process kept only some is found anew.
        """
        lacking = self.lacking(facts, layer, options)
        if lacking and self.elsewhere is not None:
            self.elsewhere(self, lacking, layer, options)
            self.find(self.lacking(facts, layer, options), layer, options)
        elif lacking:
            self.find(facts, layer, options)
        read: list[Values | None] = [None] * len(facts)
        for unit, path in self._value_paths(facts, layer, options):
            found = Values(**load_tensors(path, str(self.loaded.device))[0])
            for at, i in enumerate(unit):
                read[i] = found.select(torch.tensor([at], device=self.loaded.device))
        return Values.joined([found for found in read if found is not None])

    def find(self, facts: Sequence[Fact], layer: int, options: ValueOptions) -> None:
        """Optimises and keeps values, in this process."""
        if facts:
            contexts = self.contexts()
            self.keep(
                facts, layer, options, optimise(self.loaded, facts, layer, contexts, options, merged=True)
            )

    def lacking(self, facts: Sequence[Fact], layer: int, options: ValueOptions) -> list[Fact]:
        """Those of the facts whose values are not there yet."""
        paths = self._value_paths(facts, layer, options)
        missing = sorted(i for unit, path in paths if not path.exists() for i in unit)
        return [facts[i] for i in missing]

    def keep(self, facts: Sequence[Fact], layer: int, options: ValueOptions, values: Values) -> None:
        """Keeps values of facts, whole units of them, for `values` to read."""
        for unit, path in self._value_paths(facts, layer, options):
            own = values.select(torch.tensor(unit, device=values.delta.device))
            content = {name: x.cpu().contiguous() for name, x in vars(own).items()}
            path.parent.mkdir(exist_ok=True)
            replace_file(path, lambda p, c=content: save_tensors(p, c))

    def value_key(self, layer: int, options: ValueOptions) -> str:
        """Names all that a fact's value here follows from besides the fact and the model."""
        what = f"{replace(options, rows=0)}|{self.contexts()}|{self.loaded.model.dtype}"
        return f"values-{layer}-{hashlib.sha256(what.encode()).hexdigest()[:12]}"

    def _value_paths(
        self, facts: Sequence[Fact], layer: int, options: ValueOptions
    ) -> list[tuple[list[int], Path]]:
        """Units of the facts, each with the file of its value."""
        folder = self.directory / self.value_key(layer, options)
        return [
            (unit, folder / f"{_content_hash([facts[i] for i in unit], options)}.safetensors")
            for unit in units(facts)
        ]


def _file_hash(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"corpus = {path}: {error.strerror}; give a readable text file") from error


def _content_hash(unit: Sequence[Fact], options: ValueOptions) -> str:
    told: list[tuple[object, ...]] = [(fact.subject, fact.prompt, fact.target) for fact in unit]
    if options.forms != PROMPT_ONLY:
        told = [(*one, fact.questions, fact.paraphrases) for one, fact in zip(told, unit, strict=True)]
    content = json.dumps(told)
    if len(unit) > 1:
        # Older versions gave the values of several facts the steps of one, and kept the h₀ of one.
        content += f"|{len(unit)} times the steps"
    return hashlib.sha256(content.encode()).hexdigest()[:32]


@torch.no_grad()
def _context(loaded: LoadedModel, word: str, seed: int) -> str:
    """`word` continued by top-5 sampling to CONTEXT_TOKENS tokens, on one line."""
    generator = torch.Generator(loaded.device).manual_seed(seed)
    ids = torch.tensor([loaded.tokenizer(word)["input_ids"]], device=loaded.device)
    while ids.shape[1] < CONTEXT_TOKENS:
        top = loaded.model(input_ids=ids).logits[0, -1].float().topk(min(5, loaded.model.config.vocab_size))
        choice = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
        ids = torch.cat([ids, top.indices[choice][None]], dim=1)
    return " ".join(loaded.tokenizer.decode(ids[0], skip_special_tokens=True).split()) + ". "
