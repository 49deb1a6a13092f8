"""What must follow a target: where an answer that is right so far has to end."""

from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.values.options import Ends


def ending(loaded: LoadedModel, prompt: Prompt, chat: bool, ends: Ends) -> tuple[int, ...]:
    """Tokens behind the target of a prompt.

    In chat always the end of the turn; in text a full stop, or the tokenizer's end.
    """
    if ends == "open":
        return ()
    if chat:
        return loaded.chat.end_of_turn
    if ends == "eos":
        end = loaded.tokenizer.eos_token_id
        return () if end is None else (end,)
    return _full_stop(loaded, prompt)


def _full_stop(loaded: LoadedModel, prompt: Prompt) -> tuple[int, ...]:
    """The tokens that a full stop has behind this target; on its own it may be another one.

    A number goes on behind a full stop, 2.4.1 as 2.4.1.0, unless the line ends there.
    """
    target = loaded.tokenizer.decode(prompt.ids[prompt.target_start :])
    stop = ".\n" if target[-1:].isdigit() else "."
    plain, stopped = (
        loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (target, target + stop)
    )
    if plain and stopped[: len(plain)] == plain and len(stopped) > len(plain):
        return tuple(stopped[len(plain) :])
    return tuple(loaded.tokenizer(stop, add_special_tokens=False)["input_ids"])
