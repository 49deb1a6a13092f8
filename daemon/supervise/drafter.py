"""Whether a vLLM server drafts answers with another model (speculative decoding), and how well."""

import re

import httpx

#: vLLM has these counters only where a server drafts; a line for each engine.
COUNTER = re.compile(r"^vllm:spec_decode_num_(draft|accepted)_tokens_total(?:\{.*\})? (\S+)$", re.MULTILINE)


def drafts(url: str, seconds: float) -> tuple[int, int] | None:
    """Tokens that were drafted since the server's start, and how many of them became part of an answer.

    None where the server drafts nothing, or does not tell its metrics.

    Args:
        url: the server's address.
        seconds: after so long it does not tell.
    """
    try:
        # Without a proxy, as the applier asks replicas.
        answer = httpx.get(f"{url.rstrip('/')}/metrics", timeout=seconds, trust_env=False)
    except httpx.HTTPError:
        return None
    counted = {"draft": 0.0, "accepted": 0.0}
    lines = COUNTER.findall(answer.text) if answer.status_code == 200 else []
    for name, value in lines:
        counted[name] += float(value)
    return (round(counted["draft"]), round(counted["accepted"])) if lines else None
