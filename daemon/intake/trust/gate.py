"""The gate before the ledger: whose post it is, what that source may, and whether the post is held."""

from collections.abc import Callable
from dataclasses import dataclass, field

from daemon.core.errors import CorrectionError, Problem
from daemon.core.lifecycle import State
from daemon.core.messages import Correction, shortened
from daemon.core.settings import Settings
from daemon.core.trust import Judge, Judgement, Past, Told, reasons, score_of
from daemon.intake.reading.lexicon import load_lexicon
from daemon.intake.trust.consequences import children_of, ends_of
from daemon.intake.trust.learned import Targets
from daemon.intake.trust.policies import Policy, Source, Sources, load_sources
from daemon.intake.trust.relating import Relations
from daemon.intake.trust.rules import DAY_SECONDS, Case, findings, group_of, same_slot

#: So many live facts teach what targets look like, and they are read again once the ledger has grown by this
#: share: reading 10,000 takes a fraction of a second.
TAUGHT_BY, GROWN = 10_000, 0.1


def gate_of(settings: Settings) -> "SourceGate | None":
    """The gate of these settings; None without a file of sources.

    Raises:
        SettingsError: the file of sources, or that of relations, cannot be used.
    """
    sources = load_sources(settings.sources_file)
    return None if sources is None else SourceGate(sources, Relations(load_lexicon(settings.relations)))


class SourceGate:
    """Judges posts by the policies of their sources."""

    def __init__(self, sources: Sources, relations: Relations) -> None:
        self.sources, self.relations = sources, relations
        self._targets: Targets | None = None
        self._taught_at = -1

    def targets(self, past: Past) -> Targets:
        """What the targets of live facts look like."""
        last = past.last()
        if self._targets is None or last > self._taught_at * (1 + GROWN):
            live = (
                (group_of(prompt, self.relations.of(prompt)), target)
                for prompt, target in past.live(TAUGHT_BY)
            )
            self._targets, self._taught_at = Targets(live), last
        return self._targets

    def judging(self, past: Past, actor: str, now: float) -> Judge:
        """A judge for the posts of one transaction.

        Args:
            actor: who posts: the way in and behind a colon the name of the token, as in `http:newsroom`.
        """
        return _Judging(self, past, actor, now).judge

    def policies(self, actor: str, source: str | None) -> tuple[str | None, tuple[Policy, ...]]:
        """The name under which a post is recorded, and the policies that hold for it.

        A source without a token is only a name, which anybody may write: the default policy holds for it as
        well.

        Raises:
            CorrectionError: the name belongs to another token.
        """
        token = actor.partition(":")[2]
        mine = self.sources.by_name.get(token)
        if mine is not None and mine.token_sha256 is not None:
            if source not in (None, mine.name):
                mend = f"this token posts as {mine.name!r}; leave source out, or write that name"
                raise CorrectionError([Problem("source", shortened(source), mend)])
            return mine.name, (mine,)
        named = self.sources.by_name.get(source or "")
        if named is not None and named.token_sha256 is not None:
            mend = "this name is bound to a token; post over HTTP with that token, or leave source out"
            raise CorrectionError([Problem("source", shortened(source), mend)])
        return source, (self.sources.default,) if named is None else (named, self.sources.default)


@dataclass
class _Judging:
    """The posts of one transaction, which also see each other."""

    gate: SourceGate
    past: Past
    actor: str
    now: float
    _told: dict[str, list[Told]] = field(default_factory=dict[str, list[Told]])
    _posted: dict[str | None, int] = field(default_factory=dict[str | None, int])
    _held: int | None = None

    def judge(self, correction: Correction) -> Judgement:
        name, policies = self.gate.policies(self.actor, correction.source)
        correction = correction.model_copy(update={"source": name})
        relation = self.gate.relations.of(correction.prompt)
        names = [correction.prompt, *self.gate.relations.names(correction.prompt)]
        for policy in policies:
            _check(policy, correction, names)
            self._check_day(policy, name)
        strictest = max(policies, key=lambda one: one.policy == "review")
        rules = self.gate.sources.rules
        about = self._about(correction.subject)
        earlier = same_slot(self.gate.relations, correction, about)
        targets = self.gate.targets(self.past)
        found = findings(Case(correction, strictest, rules, relation, earlier, self.now, targets))
        score = score_of(found)
        held = f"held for review: {reasons(found)}" if score >= rules.hold_at else None
        if held is not None:
            self._count_held(rules.most_held)
        state = State.HELD if held else State.VALIDATED
        about.append(Told(correction.prompt, correction.target, name, state, self.now))
        self._posted[name] = self._posted.get(name, 0) + 1
        # A name that anybody may write asks for nothing: consequences are those of the default then.
        asks = policies[-1]
        return Judgement(
            correction,
            score,
            found,
            held,
            tuple(children_of(correction, relation, asks.consequences, asks.ended_says)),
            tuple(ends_of(correction, relation, asks.consequences)),
        )

    def _about(self, subject: str) -> list[Told]:
        if subject not in self._told:
            self._told[subject] = list(self.past.about(subject))
        return self._told[subject]

    def _check_day(self, policy: Policy, name: str | None) -> None:
        if policy.most_a_day is None:
            return
        if name not in self._posted:
            midnight = self.now - self.now % DAY_SECONDS
            self._posted[name] = self.past.posted_since(name, midnight)
        if self._posted[name] >= policy.most_a_day:
            mend = f"has posted {self._posted[name]} corrections today, and may post {policy.most_a_day}; "
            mend += "post again after midnight UTC, or raise most_a_day"
            raise CorrectionError([Problem("source", repr(name), mend)])

    def _count_held(self, most: int) -> None:
        self._held = (self.past.held() if self._held is None else self._held) + 1
        if self._held > most:
            mend = f"{most} corrections wait for a review already; review some, or raise most_held"
            raise CorrectionError([Problem("", "'held'", mend)])


def _check(policy: Policy, correction: Correction, relations: list[str]) -> None:
    """Raises CorrectionError for what the policy forbids."""
    who = f"of {policy.name}" if isinstance(policy, Source) else "by default"
    tests: list[tuple[Callable[[], bool], str, str, str]] = [
        (
            lambda: policy.policy != "refuse",
            "source",
            repr(correction.source),
            f"the policy {who} is to refuse; post with a token whose source may, or change the policy",
        ),
        (
            lambda: policy.allows_subject(correction.subject),
            "subject",
            shortened(correction.subject),
            f"the policy {who} does not allow this subject; add a pattern to its `subjects`",
        ),
        (
            lambda: policy.allows_relation(relations),
            "prompt",
            shortened(correction.prompt),
            f"the policy {who} does not allow this relation ({', '.join(relations[1:]) or 'unknown'}); "
            "add it to its `relations`",
        ),
    ]
    for holds, name, value, mend in tests:
        if not holds():
            raise CorrectionError([Problem(name, value, mend)])
