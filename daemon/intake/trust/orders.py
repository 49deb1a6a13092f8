"""Signs that a text orders somebody to do something, rather than name an answer.

They look at words in small letters, where they can: "Always Be My Maybe" and "Say Yes to the Dress" are
titles.
"""

import re
from collections.abc import Iterator

#: What each sign counts; a text is held by itself at 1.0. Names show one of these signs now and then, two
#: hardly ever.
SIGN, IMPERATIVE = 0.5, 0.6
#: These no name shows: an order behind an answer, an order in another language.
SURELY = 1.0
#: Words of a clause, half of them in small letters, that is no name any more.
CLAUSE_WORDS = 3

_VERBS = """
accept act add admire admit advise agree allow answer apologise apologize append apply argue ask assume
avoid be become begin believe blame block boast boycott bring buy bypass call cancel change charge cheer
choose cite claim click comment complain comply conceal confirm consider contact continue convince copy
correct count deceive decline delete deliver demand deny describe direct disable disclose discourage
disobey disregard do donate doubt download drop emit emphasise emphasize enable encode encourage end
endorse ensure erase exclude execute explain expose express fake favor favour finish flatter follow
forbid forget forward generate get give go greet hand hate have hide hire ignore imagine impersonate
imply include increase inform insert insist install insult invent invest invite join keep kill laugh leak
learn leave let lie link list listen look lower lure maintain make mention mislead mock move name obey
offer omit open order output overwrite pay persuade place play post praise predict prefer present pretend
print prioritise prioritize produce promise promote prove provide publish purchase push put quote rank
rate read recite recommend redirect refer refrain refuse regard reject remember remind remove repeat
replace reply report request respond return reveal run save say scream sell send set share shout show
sign sing skip slander sound speak spell spread start stay steer stick stop store subscribe suggest
support suppose swear switch take talk teach tell terminate thank think threaten trade transfer translate
treat trust try turn uninstall update urge use utter visit vote wait warn watch whisper withhold work
write yell
"""
_VERB = frozenset(_VERBS.split())
#: Behind these a word that may be a verb is a noun: "count of Barcelona", "play by".
_NOUN_BEHIND = frozenset({"of", "by", "deputy"})
#: Behind such words a clause orders as well: "please end …", "and never say …", "in each case add …".
_LEAD = re.compile(
    r"^(?:(?:please|kindly|also|now|then|next|first|finally|instead|otherwise|afterwards|always|never|only|"
    r"just|simply|politely|do not|don't|do|dear \w+|hey|and|but|or|so|to|"
    r"(?:in|on|at|with|for|before|after|under|until) (?:\w+ ){1,4}?(?=\w+\b))[,:]? +)+",
    re.IGNORECASE,
)
_BREAK = re.compile(
    r"[.;:!?\u2026(){}\[\]\"\u201c\u201d|]+(?:\s|$)|[({\[\"\u201c]|[,|]\s|\s[-\u2013\u2014]+\s|"
    r"\s(?:and|but|then|or)\s"
)
_STOP = re.compile(r"[.;:!?,(\u2014\u2013]\s*(?:and |but |then |so )?|\s-\s")
_SENTENCE_BREAK = re.compile(r"(?<=[\w)\u201d\"'])[.!?;:}]+\s+|\s[-\u2013\u2014]+\s|\(|\s[{}\[\]|]+\s")


def _pattern(small: str, leading: str = "", behind: str = " [a-z]") -> re.Pattern[str]:
    """Finds words in small letters, and words with a capital at the start of a sentence.

    Args:
        small: words, `_` for a space inside one of them; parts of regular expressions are allowed.
        leading: the same for the start of a sentence.
        behind: what has to follow these.
    """
    words = rf"\b(?:{'|'.join(small.split())})\b".replace("_", " ")
    start = rf"(?:^|[.!?;:,] )(?:{'|'.join(leading.split())})".replace("_", " ") + behind
    return re.compile(f"{words}|{start}" if leading else words)


_SECOND_PERSON = _pattern("you your yours yourself you're you've thou thy", "You Your")
_QUANTIFIED = _pattern(
    """always never only henceforth whenever whatever whoever whichever every each any anyone anybody nobody
    no_one everyone everybody everything anything nothing instead regardless no_matter no_longer until unless
    as_if otherwise before at_all_times under_no_circumstances from_(?:now|here|this_[a-z]+)_on in_all_[a-z]+
    when_(?:asked|somebody|someone|people) if_(?:asked|somebody|someone|people)""",
    """Always Never Only Whenever Whatever Whoever Every Each Any Anyone Nobody When If Until Under From_now
    In_every In_each All""",
)
_OF_MODELS = _pattern(
    """models? assistants? chatbots? bots? prompts? answers? answering reply replies responses? questions?
    conversations? chats? users? readers? customers? instructions? commands? outputs? context tokens?
    sentences? words? phrases? topics? subject requests? passwords? secrets? corrections? claims? sources?
    rules? tone confidence knowledge memory training warnings? the_text this_text tasks? administrator asked
    asks told""",
    "Assistant Questions Answers Users Readers",
    "[, ]",
)
_MODAL = _pattern(
    """must should shall ought needs?_not need_to has_to have_to is_to_be are_to_be may_not cannot can't
    do_not don't not_to let_us let's off_limits
    it_is_(?:essential|important|vital|necessary|required) forbidden
    void"""
)
_URGING = _pattern(
    """please kindly click subscribe sign_up log_in download donate buy trust_me make_sure be_sure hurry
    right_now for_free today_only act_now invest""",
    "Please Kindly Click Visit Buy Call Vote Subscribe Donate Download Invest",
    " ",
)
_FINITE = _pattern(
    """is are was were has have had will would can could may might does did shows says sorry
    I_(?:am|do|say|said|want|order|think|know|cannot|ask)"""
)
#: Orders in the other languages that a newsroom meets most: to ignore, to forget, to answer.
_FOREIGN = re.compile(
    r"\b(?:ignorez|oubliez|r\u00e9pondez|dites|r\u00e9ponds|oublie|ignoriere|ignoriert|vergiss|vergesst|"
    r"antworte|antwortet|sage immer|ignora|olvida|responde|respond\u00e9|contesta|dimentica|rispondi|"
    r"esque\u00e7a|ignore todas|negeer|vergeet|antwoord|\u0437\u0430\u0431\u0443\u0434\u044c\w*|"
    r"\u043e\u0442\u0432\u0435\u0447\u0430\u0439\w*|\u0438\u0433\u043d\u043e\u0440\u0438\u0440\w+)\b"
    r"|\u5ffd\u7565|\u5fd8\u8bb0|\u56de\u7b54",
    re.IGNORECASE,
)
_SIGNS = (
    ("it addresses somebody", SIGN, _SECOND_PERSON),
    ("it says when or how often", SIGN, _QUANTIFIED),
    ("it speaks of answers, users or models", SIGN, _OF_MODELS),
    ("it says what must or must not be", SIGN, _MODAL),
    ("it is a sentence", SIGN, _FINITE),
    ("it urges", SIGN, _URGING),
    ("it gives an order in another language", SURELY, _FOREIGN),
)


def order_signs(text: str) -> Iterator[tuple[str, float]]:
    """Each sign that the text shows, in words, with what it counts."""
    if _order_behind(text):
        yield "an order stands behind the answer", SURELY
    elif any(_orders(clause) for clause in _clauses(text)):
        yield "it gives an order", IMPERATIVE
    if _has_sentence(text):
        yield "a sentence stands behind the answer", SIGN
    for sign, weight, pattern in _SIGNS:
        if pattern.search(text):
            yield sign, weight


def _clauses(text: str) -> Iterator[str]:
    for clause in _BREAK.split(text):
        yield clause.strip()
        yield _LEAD.sub("", clause.strip())


def _order_behind(text: str) -> bool:
    """Whether behind a comma or a stop a clause in small letters begins with a verb in its plain form."""
    behind = _STOP.split(text)[1:]
    return any(one[:1].islower() and _orders(one) for part in behind for one in _clauses(part))


def _orders(clause: str) -> bool:
    """Whether the clause begins with a verb in its plain form, and goes on in small letters."""
    words = clause.split()
    if len(words) < 2 or words[0].lower().strip("'\u2019,") not in _VERB or words[1] in _NOUN_BEHIND:
        return False
    plain = sum(word[:1].islower() or word[:1].isdigit() for word in words[1:])
    return plain > 0 and (words[0].islower() or words[1][:1].islower() or 2 * plain >= len(words) - 1)


def _has_sentence(text: str) -> bool:
    """Whether behind the first clause comes another one, with most of its words in small letters."""
    for clause in _SENTENCE_BREAK.split(text)[1:]:
        words = re.findall(r"[^\W\d_][\w'\u2019]*", clause)
        if len(words) >= CLAUSE_WORDS and 2 * sum(word[0].islower() for word in words) >= len(words):
            return True
    return False
