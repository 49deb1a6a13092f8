"""Sentences that state no fact, by kind and with a reason: opinions, questions, plans, instructions, …"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from daemon.intake.reading.wording import INNER_SPACE, prepare


@dataclass(frozen=True)
class Refusal:
    """Why a statement is not taken.

    Attributes:
        kind: opinion, question, conditional, rumour, future, instruction, two_facts, ambiguous,
            unknown_relation or no_fact.
        why: one plain sentence, with the next step.
    """

    kind: str
    why: str


_QUESTION = re.compile(
    r"(?:(?:and|but|so|please|hey|hi|ok) ,? ?)?(?:(?:who|what|why|how|which|whose|whom) .*|(?:when|"
    r"where)(?: is| are| was| were| 's| did| does|"
    r" do| has| have| will| can| would| many| much| long| old| tall| [a-z]+ (?:is|are|was|were|does|did|"
    r"do|has|have)) .*"
    r"|(?:is|are|was|were|has|have|does|do|did|can|could|would|isn) (?:not )?(?:it |he |she |they |the |"
    r"there |you |we |[A-Z\"]).*"
    r"|(?:do|does|did|can|could|would) (?:you|anyone|anybody|somebody|someone) .*|will (?:the|it|there|"
    r"he|she|they|you) .*"
    r"|i wonder .*|tell me (?:who|what|when|where|why|how|which|if|whether) .*|any idea .*|does anyone .*"
    r"|i (?:want|would like|need) to know .*)",
    re.IGNORECASE,
)
_INSTRUCTION = re.compile(
    r"^(?:(?:please|now|then|and|hey|first|ok|okay|attention|important|from now on|kindly|"
    r"henceforth) ,? ?)*(?:ignore|disregard|forget|always|"
    r"never|pretend|say|tell|answer|reply|respond|act|imagine|override|delete|remove|erase|repeat|print|"
    r"output|translate|write|publish|"
    r"make|do not|don't|stop|start|begin|set|update|change|correct|replace|add|insert|run|execute|call|"
    r"open|send|post|give|show|list|"
    r"explain|describe|summari[sz]e|use|obey|follow|reveal|speak|refuse|treat|consider|assume|"
    r"suppose that you|let us|let's|let me|"
    r"you (?:must|should|shall|will|have to|need to|are|may|can)|only (?:say|answer|reply|respond|speak)|"
    r"reply|system :|assistant :|user :|"
    r"keep in mind to|make sure|ensure|be (?:sure|careful|nice|quiet)|whenever|learn|store|save|"
    r"memori[sz]e|remember to|note to self)"
    r"(?= )(?! (?:Air|Cup|Day)\b)",
    re.IGNORECASE,
)
_INJECTED = re.compile(
    r"(?:previous|prior|above|earlier|all) (?:instructions?|rules|prompts?|commands?)|system prompt|"
    r"as an ai\b|language model|jailbreak|"
    r"you are (?:now|an?) (?:assistant|ai|bot|dan)|(?:must|should|always|only|never) (?:answer|say|reply|"
    r"respond|repeat)|"
    r"(?:answer|reply|respond) (?:with|only|always)|<\||\[inst|### |ignore (?:all|any|the|your|my|"
    r"everything)|"
    r"do anything now|without (?:rules|restrictions)|your (?:instructions|guidelines|training|rules)",
    re.IGNORECASE,
)
_RUMOUR = re.compile(
    r"(?<![^ ])(?:[Rr]eportedly|[Aa]llegedly|[Ss]upposedly|[Aa]pparently|[Pp]robably|[Pp]ossibly|"
    r"[Pp]erhaps|[Mm]aybe|[Ll]ikely|"
    r"[Pp]resumably|[Pp]urportedly|[Uu]nconfirmed|[Uu]nverified|[Cc]onceivably|[Ss]eemingly|"
    r"[Oo]stensibly|[Rr]umou?r(?:s|ed|ing|edly)?|"
    r"[Ss]peculat(?:ion|ed|ions|e)|[Hh]earsay|[Gg]ossip|[Ww]hispers?|allegation|alleged|purported|"
    r"supposed|suspected|presumed|"
    r"(?:is|are|was|were|been) (?:said|thought|believed|understood|rumoured|rumored|assumed|reported|"
    r"claimed|alleged|tipped|suspected) "
    r"(?:to|that)|(?:It|it) is (?:said|thought|believed|rumoured|rumored|claimed|alleged|understood|"
    r"assumed|possible|likely|reported)|"
    r"[Ss]ources?(?: [a-z]+){0,4} (?:say|says|said|claim|claims|claimed|suggest|suggests|report|told)|"
    r"[Ii]nsiders?|"
    r"(?:[Ss]ome|[Pp]eople|[Mm]any|[Tt]hey|[Ss]omebody|[Ss]omeone|[Ee]verybody|[Ee]veryone|[Oo]thers|"
    r"[Cc]ritics|[Ww]itnesses|[Ff]ans|[Oo]bservers)(?: people| users)? (?:say|says|claim|claims|believe|"
    r"believes|think|thinks|"
    r"suspect|told me|are saying)|(?:I|i|We|we|[Pp]eople) (?:have )?(?:heard|hear|read|overheard)|"
    r"[Ww]ord (?:is|has it|on the street)|might|"
    r"may|could|seems|seem|appears? (?:to|that)|claims?(?: that| to)|claimed that|hints?|hinted|"
    r"suggests?(?: that)?|suggested that|is said|[Nn]ot confirmed|yet to be confirmed|it looks like|"
    r"[Ll]ooks like|[Ll]egend has it|"
    r"(?:[Tt]abloids?|[Tt]witter|[Ss]ocial media|[Aa] (?:friend|colleague|neighbour|user|tweet|blog)|"
    r"[Mm]y (?:friend|brother|neighbour|uncle|cousin|colleague)) "
    r"(?:says?|said|told|claims?|reports?|thinks?)|so they say|familiar with the matter|anonymous(?:ly)?|"
    r"or so|[Tt]here is talk|[Tt]here are reports|not yet confirmed)(?= )"
)
_CONDITIONAL = re.compile(
    r"^(?:If|Unless|Should|Were|Had|Suppose|Supposing|Provided|Providing|Assuming|Assume|In case|"
    r"In the event|On condition|"
    r"Whether|Only if|Even if|As long as|So long as|Once|When|Whenever|Until|Imagine|Say|What if|Were it|"
    r"But for|Without) "
    r"|(?: |^)(?:if|unless|would|, provided|provided that|providing that|assuming(?: that)?|as long as|"
    r"so long as|in case|on condition|"
    r"on the condition|otherwise|whether|subject to|depending on|pending|contingent|were it|"
    r"hypothetically|even if|only if|would've"
    r"|in the event|should the|should it|should he|should she) ",
)
#: Starts that are conditions only before another clause.
_ONLY_WITH_COMMA = re.compile(r"^(?:Should|Were|Had|Once|When|Whenever|Until|Say|Without|But for) (?!.* , )")
_JUDGING = (
    "best|worst|greatest|finest|nicest|smartest|coolest|ugliest|prettiest|better|worse|beautiful|ugly|"
    "brilliant|terrible|awful|horrible|"
    "great|good|bad|nice|amazing|awesome|fantastic|wonderful|excellent|superb|outstanding|delicious|"
    "tasty|disgusting|boring|exciting|"
    "interesting|funny|stupid|clever|smart|lazy|incompetent|competent|corrupt|overrated|underrated|"
    "disappointing|impressive|charming|"
    "lovely|cool|fun|useless|useful|ridiculous|embarrassing|disgrace|shame|disaster|masterpiece|genius|"
    "idiot|liar|hero|fool|legend|"
    "inspiring|inspirational|gorgeous|stunning|perfect|mediocre|poor|pathetic|shameful|unfair|fair|"
    "overpriced|cheap|expensive|"
    "pleasant|unpleasant|kind|rude|honest|dishonest|trustworthy|unreliable|reliable|talented|gifted|wise|"
    "crazy|insane|annoying|favourite|"
    "favorite|visionary|fascinating|weird|strange|unbearable|worthless|incredible|remarkable|friendly|"
    "rather|elegant|popular|important|dull"
)
_OPINION = re.compile(
    r"(?<![^ ])(?:I (?:really |personally |strongly |firmly |still )?(?:think|believe|feel|guess|suppose|"
    r"find|reckon|assume|hope|wish|love|like|hate|prefer|doubt|suspect|am "
    r"(?:sure|convinced|certain|afraid|of the opinion))|[Ww]e (?:think|believe|feel|hope|find)|"
    r"[Ii]n (?:my|our|his|her|their) "
    r"(?:opinion|view|eyes|mind)|[Tt]o (?:my|our) mind|[Ii]mo|IMO|IMHO|[Pp]ersonally|[Ff]rankly|"
    r"[Hh]onestly|[Uu]nfortunately|[Ff]ortunately|[Ss]adly|[Ll]uckily|[Ii]f you ask me|"
    r"(?:[Ee]veryone|[Ee]verybody|[Nn]obody|[Nn]o one) (?:agrees|knows|likes|loves|doubts)|should|ought|"
    r"deserves?|deserved|must be|had better|needs to|need to|has to|"
    rf"(?:most|more|so|too|very|really|rather|quite|extremely|absolutely|truly|simply) (?:{_JUDGING}|"
    rf"[a-z]+(?:ful|ive|ous|able|ing|ic|al|ent|ant))|"
    rf"(?:is|are|was|were|seems|looks|sounds|tastes|feels|remains|become|becomes|became) (?:a |an |the |"
    rf"such a |one of the |by far the |just |simply |much |far )?(?:{_JUDGING})|"
    rf"(?:a|an|the|such a) (?:{_JUDGING}) (?!known|selling|practice|seller|western|eastern|man\b)|"
    rf"I do not (?:think|believe|like)|is a joke|sucks|rocks|would rather|everybody loves|nobody likes)(?= )"
)
_FUTURE = re.compile(
    r"(?<![^ ])(?:will(?! (?:be held|take place|be hosted|be staged|begin|start|open|end|expire|close))|"
    r"shall|is going to|are going to|is set to|are set to|"
    r"is due to|is to (?!be (?:known|called|named))|are to|plans? to|plans|planned to|intends? to|"
    r"intended to|is expected|are expected|expects? to|aims? to|is about to|"
    r"is scheduled to|is slated to|wants? to|hopes? to|wishes to|proposed?(?: to| that)?|proposes to|"
    r"is planning|are planning|is considering|considers|"
    r"is poised|is in talks|is negotiating|has agreed to|agreed to|has offered|is preparing|"
    r"is running for|is a candidate|candidate for|"
    r"was nominated|has been nominated|is nominated|nominates?|nominated|has applied|is likely to|"
    r"next (?:year|month|week|spring|summer|autumn|winter|season|term)|"
    r"tomorrow|in the future|-elect|designate|promised to|promises to|has promised|vowed to|pledged to|"
    r"is discussing|is moving|are moving|is relocating|is becoming|is leaving|is joining|is taking over|"
    r"is stepping down|"
    r"are discussing)(?= )"
)
_PRONOUN = re.compile(
    r"(?:He|She|It|They|We|I|You|This|That|These|Those|There|Somebody|Someone|Nobody|His|Her|Their|Its|"
    r"My|Our|Your) "
)
_ADDRESSES = "State it as a fact, such as: The director of Vale University is Amara Singh."
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("instruction", f"It tells somebody what to do, and factd takes facts alone. {_ADDRESSES}"),
    ("question", f"It is a question. {_ADDRESSES}"),
    (
        "conditional",
        "It holds under a condition alone. Post it when the condition has come true, without the condition.",
    ),
    (
        "rumour",
        "It is a rumour or a guess, by its own words. Post it when it is confirmed, without those words.",
    ),
    (
        "opinion",
        "It is an opinion, and nobody can look it up. Post what is so, without what somebody thinks of it.",
    ),
    ("future", "It tells of a plan or of a time to come. Post it when it has come true."),
)
WHY: Mapping[str, str] = dict(_PATTERNS)


def refused(statement: str) -> Refusal | None:
    """The refusal of a sentence that is none of a fact by its form; None when it may state one."""
    text = prepare(statement)
    if not re.search(r"[^\W\d_]", text):
        return Refusal("no_fact", f"There are no words in it. {_ADDRESSES}")
    plain = _without_quotes(text)
    tells: tuple[tuple[str, Callable[[str], object]], ...] = (
        ("instruction", _is_instruction),
        ("question", lambda one: _is_question(statement, one)),
        ("conditional", _is_conditional),
        ("rumour", _RUMOUR.search),
        ("opinion", _OPINION.search),
        ("future", _FUTURE.search),
    )
    for kind, tell in tells:
        if tell(plain):
            return Refusal(kind, WHY[kind])
    return None


def no_fact(text: str) -> Refusal:
    """The refusal of a sentence in which nothing was understood."""
    if _PRONOUN.match(text):
        return Refusal(
            "no_fact", "It does not name whom or what it is about. Write the name in place of the pronoun."
        )
    return Refusal("no_fact", f"It names nothing that could be corrected. {_ADDRESSES}")


def _without_quotes(text: str) -> str:
    return re.sub(r'"[^"]*"', lambda found: found.group().replace(INNER_SPACE, "_"), text)


def _is_instruction(text: str) -> bool:
    first = _INSTRUCTION.search(text)
    named = first and re.match(r"[A-Z][\w-]+ (?:[A-Z][\w-]+ )*(?:is|are|was|were|has|have) ", text)
    return bool(first and not named) or _INJECTED.search(text) is not None


def _is_question(statement: str, text: str) -> bool:
    if statement.rstrip(" \"'”’)").endswith("?"):
        return True
    return _QUESTION.fullmatch(text) is not None


def _is_conditional(text: str) -> bool:
    return bool(_CONDITIONAL.search(text)) and not _ONLY_WITH_COMMA.match(text)
