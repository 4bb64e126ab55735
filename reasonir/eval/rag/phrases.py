"""How language models say which option they choose: the patterns that `answers.py` reads with. Pure data and cleaning.

Invariant: no pattern can go back over more than a bounded stretch of text, so that reading takes linear time.
Denials and corrections are known in English, answer phrases in some twenty languages.
"""

import re
import unicodedata

# Words before an option that change nothing ("the answer is most likely option (C)").
_BETWEEN = (
    "definitely|no doubt|without a doubt|clearly|therefore|thus|hence|likely|most|probably|simply|indeed|actually|then"
    "|in fact|now|still|just|definitively|certainly|surely|best|given by|the|option|choice|letter|answer|number"
    "|statement|only|to be|die|der|das|antwort|buchstabe|la|le|el|lettre|letra|lettera|opción|opção|opzione|réponse"
    "|a alternativa|alternativa|a letra|a opção|wariant|вариант|буква|选项|選項|選択肢|선택지|选择|选|選"
)
FILLER = re.compile(rf"(?:\s+|[:\"“”>=→,]|-(?=[\s>])|\b(?:{_BETWEEN})(?![A-Za-z])){{0,20}}", re.IGNORECASE)
SPACE, SPACE_OR_QUOTE = re.compile(r"[\s:]*"), re.compile(r"[\s:\"“>]*")
NEGATION = re.compile(
    r"\s*(?:(?:definitely|clearly|certainly|probably|likely|simply|therefore|of course)\s+)?"
    r"(?:(?:not|never|nicht|pas|no|non|não|nie|не)\b(?! (?:doubt|surprise)\b)|n't\b|unlikely to be\b)\s*(?:be\b)?",
    re.IGNORECASE,
)
BUT = re.compile(r"[)\]\s.,;:-]{0,4}\b(?:but|sondern|mais|sino|but rather)\b\s*(?:rather|it is|it's|instead)?", re.I)
SEVERAL = re.compile(r"\s*(?:either|both|one of|any of|between|entweder|sowohl|soit)\b", re.IGNORECASE)
EVERY = re.compile(r"\s*(?:all|any) of (?:the above|them|these)\b", re.IGNORECASE)
NONE = re.compile(
    r"\s*(?:none|neither)\b(?: of (?:the|these|them|those)(?: (?:above|options|choices|answers|given))*)?"
    r"|\s*not (?:given|listed|provided|among)\b|\s*(?:unknown|unclear|undetermined|uncertain)\b",
    re.IGNORECASE,
)

# A letter of the Latin, Greek or Cyrillic script or a digit: what would make a lone letter part of a word. Chinese and
# Japanese write no space after it.
_GLUE = r"A-Za-z0-9_\u00c0-\u024f\u0370-\u03ff\u0400-\u04ff"
LETTER = re.compile(
    rf"(?P<open>[(\[{{\"'<]{{0,3}})[ ]?(?P<letter>[A-Za-z])(?P<close>[ ]?[)\]}}\"'>]{{1,3}})?"
    rf"(?![{_GLUE}+#^]|'(?!d[iıuü]r)[A-Za-z]|-[A-Za-z]|/[A-Za-z]{{2}}| ?[=×]| [+*] )"
)
JOINED = re.compile(
    r"\s*(?:,|/|&|,?\s*\b(?:and/or|or|and|oder|und|ou|et|o|y|e)\b|或者?|和|または|と)\s*(?:(?:option|choice)\s+)?"
    rf"[(\[\"']?(?P<letter>[A-Za-z])[)\]\"']?(?![{_GLUE}'+#])"
    r"(?!\s+(?:is|are not|was|isn't|does|has|cannot|can|would|being|am|says|means)\b)",
    re.IGNORECASE,
)
DELIMITER = re.compile(r"[ ]?[.:,)\]]{0,2}\s*(?:-\s+)?")
# What may follow a letter that is not bracketed; "B cells" and "A cell" are no options.
GOES_ON = re.compile(
    r"\s*(?:$|\n|[^\sA-Za-z0-9\u00c0-\u024f\u0370-\u04ff])|\s+(?:because|since|as|is|are|due|for|which|with|and|or|but"
    r"|not|rather|based|according|given|in|by|from|if|when|where|although|though|while|on|it|this|must|would|seems"
    r"|appears|looks|remains|weil|da|denn|parce|car|porque|ya|perché|pois|потому|так|bo|want|omdat|olarak|vì|karena"
    r"|다|입니다)\b"
)
# What may follow an option's text where nothing more belongs to it; "3.5" is not the option "3".
TEXT_ENDS = re.compile(
    r"[\"')\]}<]{0,3}(?:\s*(?:$|\n)|[ ]?[.;!?。！？，、<]{1,2}(?=\s|$|[^\x00-\x7f]|<|\")|:\s|\s+[-(]|[)}\]]"
    r"|[:,)]?\s*[-(]?\s*(?:because|since|as|which|so|not|due|for|i\.e|rather|with|option|is the|are the|is correct"
    r"|is right|(?:or|and) \(?[A-J][).]|weil|parce que|porque|因为)(?![A-Za-z]))"
)
CONDITIONAL = re.compile(r"[)\s,]*\b(?:if|were|unless|provided)\b", re.IGNORECASE)
TEXT_THEN_LETTER = re.compile(r"(.+?)\s?[-(\[]\s?([A-J])[)\]]?")
LINE_ENDS = re.compile(r"[.)\]]*\s*(?:\n|$)")
ASKS = re.compile(r"[)\]}\"'.]{0,3}\s*(?:\?|吗)")
ARTICLE = re.compile(r"(?:the|a|an|der|die|das|le|la|les|el|los|las|il|lo)\s+|l'", re.IGNORECASE)

_ADJECTIVE = r"(?:correct|right|best|final|most \w+|appropriate|accurate|suitable|remaining|closest|my|our)"
_ENGLISH_NOUN = (
    rf"(?:(?:{_ADJECTIVE}\s+)?ans(?:wer)?\.?(?:\s+(?:choice|option|letter))?"
    rf"|{_ADJECTIVE}\s+(?:option|choice|response|solution|statement|letter|one))"
)
_IS = (
    r"(?:is|was|would be|will be|must be|should be|seems to be|appears to be|has to be|might be|may be|could be"
    r"|can only be|remains|isn't|is not|can ?not be|can't be|would not be|wouldn't be|could not be|should not be)"
)
_LANGUAGES = (
    r"(?:antwort(?:möglichkeit)?|lösung)\s*(?:ist|lautet|wäre|:|=)|\brichtig ist",
    r"réponse(?:\s+(?:correcte|exacte|finale|juste))?\s*(?:est|serait|:|=)"
    r"|(?:option correcte|(?:bonne|meilleure) (?:option|réponse)) est",
    r"respuesta(?:\s+(?:correcta|final|adecuada))?\s*(?:es|sería|:|=)|opción(?:\s+correcta)\s*(?:es|:)",
    r"risposta(?:\s+(?:corretta|giusta|esatta|finale))?\s*(?:è|:)",
    r"(?:resposta|alternativa|opção)(?:\s+(?:correta|certa|final))?\s*(?:é|:)",
    r"antwoord\s*(?:is|:)",
    r"odpowied[zź](?:ią)?\s*(?:to|jest|:)",
    r"ответ(?:ом)?\s*(?:является|:|—|–|-|это)",
    r"(?:cevap|yanıt)\s*:?",
    r"svar(?:et)?\s*(?:är|er|:)",
    r"đáp án(?:\s+đúng)?\s*(?:là|:)",
    r"jawaban(?:nya)?(?:\s+(?:yang\s+)?(?:benar|tepat))?\s*(?:adalah|ialah|:)",
    r"(?:答案|正确选项|正確選項|正确的选项)\s*(?:应该|應該|就)?\s*(?:是|为|為|选|選|:)+",
    r"(?<![不没])(?:故选|应选|选择|选|選擇|選)\s*(?=:?\s*\(?(?-i:[A-J]))",
    r"(?:答え|正解|解答|回答)\s*(?:は|:)",
    r"(?:정답|답|답변)\s*(?:은|는|:)",
    r"(?:الإجابة|الجواب)(?:\s+(?:الصحيحة|الصحيح|النهائية))?\s*(?:هي|هو|:)",
    r"(?:उत्तर)\s*(?:है|:)?",
)
ANSWER_PHRASE = re.compile(
    rf"\b(?:{_ENGLISH_NOUN}(?:\s+(?:to|for|of|among|from|that|which|here)\b[^.?!:\n]{{0,80}}?)?\"?\s*"
    rf"(?:\s{_IS}(?![A-Za-z])|[:=→⇒]|->|-(?=\s)))"
    rf"|(?m:^)[^\w\n]{{0,4}}(?:{_ADJECTIVE} )?answer[ ]*\n+|<(?:final_)?answer>"
    r"|(?m:^)[^\w\n]{0,4}(?:(?:selected|chosen) )?(?:option|choice|selection|correct|conclusion"
    r"|result|verdict|decision)\s?:"
    r"|\b(?:choose|chose|select|pick|go(?:ing)? with|opt for|settle on|i'd say|i would say)\b(?=[ :])"
    r"|\b(?:wait|no|actually|sorry|correction|scratch that|oops|i mean|make that)\b[ ]?[,:;.!-]+\s*(?:actually,? )?"
    r"(?:(?:it's|it is|it should be|it must be|that's|i mean|should be|make that|the answer is)\s+)?"
    rf"(?=(?:option )?[(]?(?-i:[A-J])[)]?(?:[.,;!]|\s*$|\n))|{'|'.join(_LANGUAGES)}",
    re.IGNORECASE,
)
# Right before an answer phrase: it is denied, supposed, asked, or about something else than the answer.
VOID_BEFORE = re.compile(
    r"(?:\b(?:if|suppose|supposing|assume|assuming|whether|unless|why|incorrect|wrong|possible|tempting|tempted to"
    r"|plausible|another|common|(?:might|may|could|would|you'd|tempted to|to) (?:think|say|believe|assume|answer"
    r"|guess)|options (?:for|to|of)|(?:not|\w+n't|cannot|never) (?:think|believe|mean|say|agree|imply|true|correct))\s+"
    r"(?:that\s+)?(?:the|an?|your|my)?|\b(?:not|\w+n't|never|why (?:would|should|do|did) \w+|cannot|should|could|might"
    r"|may|to)(?: we| i| you)?)\s*$",
    re.IGNORECASE,
)
TO_CHOOSE = re.compile(
    r"\b(?:have|need|want|going|like|tend|forced|decide[ds]?|inclined|safe|best) to\s*$", re.IGNORECASE
)
TAKEN_BACK = re.compile(
    r"[^\w\n]{0,6}\s*(?:(?:wait|no|hmm+|hold on|actually|oops|sorry)\b[^.\n]{0,40}\b)?"
    r"(?:that(?:'s| is| was) (?:wrong|incorrect|not right|not correct)|scratch that|i made (?:a mistake|an error))",
    re.IGNORECASE,
)
CORRECTS = re.compile(
    r"\b(?:wait|actually|no|correction|sorry|mistake|instead|wrong|incorrect|hmm+|rather|however|oops)\b", re.IGNORECASE
)
ADDS_NOTHING = {
    "the", "or", "and", "also", "alternatively", "option", "possibly", "maybe", "either", "my", "answer", "is",
}  # fmt: skip

VERDICT = re.compile(
    r"\s*,?\s*(?:is|are|was|must be|would be|seems|appears to be|looks|remains)\s+(?P<not>not\s+|never\s+)?"
    r"(?:(?:therefore|thus|clearly|hence|also|indeed|definitely|both|most likely|likely|probably),?\s+){0,2}"
    r"(?:the\s+|my\s+)?(?:only\s+|most\s+|single\s+|one\s+)?(?:(?P<true>correct|right|best|accurate|appropriate|final)"
    r"\b\s*)?(?P<noun>answer|option|choice|one\b(?! of))?",
    re.IGNORECASE,
)
SUBJECT = re.compile(
    r"(?:^|[.!?,;:]\s+|\n)[^\w\n(]{0,6}(?:(?:so|thus|therefore|hence|but|and|only|both|that|because|since|actually|now|then)"
    r",?\s+){0,2}(?:(?:the\s+)?(?:option|choice|answer|statement|letter)s?\s+)?(?=[(]?(?-i:[A-J])[)]?[\s.:,])",
    re.IGNORECASE,
)
CONDITION = re.compile(r"\b(?:if|suppose|assuming|whether|unless|either|neither)\b[^.\n]{0,12}$", re.IGNORECASE)

HEADING = re.compile(
    r"(?m:^)[ \t>•*-]{0,6}(?:(?:option|choice)\s+)?[(\[]?(?P<letter>[A-J])(?:[)\]][.:]?|[.:])", re.IGNORECASE
)
LINE_IS_LETTER = re.compile(
    r"(?m:^)[ >(\[\"'{✅✓☑•→-]{0,4}(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer) )?(?=[(]?[A-J][^\w\n]{0,4}$)", re.MULTILINE
)
POINTS_TO = re.compile(
    r"(?:\b(?:so|thus|therefore|hence|it's|it is|it must be|it has to be|that's|that is|that leaves|this leaves|leaving"
    r"|namely|i\.e\.|matches|match|corresponds to|correspond to|points to|leads to|consistent with)|=>|->|→|⇒)"
    r"\s*,?:?\s*(?:(?:only|the)\s+)?(?:(?:option|choice|answer|letter)\s+)?"
    r"(?=[(]?(?-i:[A-J])[)]?\s*(?:[.!;]?\s*(?:$|\n)|[.!;]\s|,? (?:because|since|as)\b))",
    re.IGNORECASE,
)
MENTION = re.compile(
    r"(?:\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|OPTION|opción|opção)\s|选项 ?|選項 ?|選択肢 ?|선택지 ?)"
    r"[(]?([A-J])(?![A-Za-z0-9_'-])"
)
DENIED_AFTER = re.compile(
    r"[)\]]?[^.\n?!]{0,30}?\b(?:incorrect|wrong|false|not|isn't|cannot|can't|doesn't|does not|eliminated|excluded"
    r"|ruled out|irrelevant|unlikely)\b",
    re.IGNORECASE,
)
DENIED_BEFORE = re.compile(
    r"\b(?:not|nor|neither|eliminate|exclude|excluding|rule out|ruling out|reject|except|unlike|than|consider|look at"
    r"|looking at|evaluate|examine|analy[sz]e|check|regarding|about|if|choose|incorrect|wrong)\b[^.\n]{0,12}$",
    re.IGNORECASE,
)
OPENS_WITH = re.compile(
    r"[^\w\n(]{0,4}(?:(?:option|choice)\s+)?(?=[(]?(?-i:[A-J])(?:\)|:|\.?[ ]*\n|,? (?:because|since)\b| - |\. (?:this"
    r"|the|because|since|it|in|explanation|that|these|according|based|here|reason)\b))",
    re.IGNORECASE,
)
WHOLE_LETTER = re.compile(r"\W{0,4}(?:(?:option|choice) )?\W?([A-Za-z])\W{0,6}", re.IGNORECASE)
BOX = re.compile(r"\\+f?boxed\s{0,2}\{")
BRACE = re.compile(r"[{}]")
EXCEPTION = re.compile(r"\b(?:except|not|false|incorrect|least|untrue|incorrectly)\b", re.IGNORECASE)
LEADS_IN = re.compile(
    r"(?:[^\w\n(-]{0,4}(?:so|thus|therefore|hence|it is|it's|it must be|that is|this is|that would be|this would be)\b"
    r"[,:]?\s+){1,2}",
    re.IGNORECASE,
)
CANNOT_SAY = re.compile(
    r"\b(?:can ?not|can't|unable to|not able to|impossible to|not possible to|not sure|don't know|do not know)\b"
    r"[^.\n]{0,40}?\b(?:determin\w+|answer|answered|decide|choose|conclude|tell|which)\b"
    r"|\b(?:not enough|insufficient|lack of)\b[^.\n]{0,20}\b(?:information|context|data)\b"
    r"|\bnone of (?:the|these|them)\b"
    r"|\bi (?:don't|do not) know\b|\bno (?:correct|right) (?:answer|option)\b",
    re.IGNORECASE,
)

_NEXT = r"(?:next )?(?:question|frage|pregunta|domanda|pergunta|вопрос|问题|問題|질문|q)(?: ?\d+)?"
NEXT_QUESTION = re.compile(
    rf"(?m:^)[^\w\n]{{0,6}}{_NEXT}[*_ ]{{0,3}}(?::|(?<=\d)[.)]?[ *_]*$)|(?m:^)(?:human|user)\s*:"
    r"|<\|[a-z_]{2,20}\|>|</s>|\[/?inst\]",
    re.IGNORECASE | re.MULTILINE,
)

_SIGNS = str.maketrans({
    "‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "「": '"', "」": '"',
    "–": "-", "—": "-", "−": "-", "‐": "-", "‑": "-", "\u2044": "/", "\u00a0": " ", "\r": "\n",
})  # fmt: skip
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+")
_BOLD_LETTER = re.compile(r"\*\*[ ]?\(?([A-J])[).:]{0,2}[ ]?\*\*(?!\w)")
_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathbf|mathrm|mathsf|mathit|bf|rm|boldsymbol|operatorname|emph|mbox)"
    r"\s{0,2}\{([^{}]{0,2000})\}"
)
_LATEX = re.compile(
    r"\\[()\[\]]|\\?\$|(?<![A-Za-z0-9)])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![A-Za-z0-9(])|`|__|~~"
    r"|\\(?:left|right|displaystyle|large|Large|boldsymbol)(?![A-Za-z])"
)


def plain(text: str) -> str:
    """Return a text without what Markdown and LaTeX add to it; two spellings of one formula become the same.

    Bold lone letters stand in brackets afterwards. Lines stay lines; other white space is one space.
    """
    text = _SUPERSCRIPTS.sub(lambda found: "^" + unicodedata.normalize("NFKC", found[0]), text.replace("\r\n", "\n"))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    text = _BOLD_LETTER.sub(r"(\1)", text)
    for _ in range(3):
        text = _WRAPPER.sub(r"\1", text)
    text = re.sub(r"\\[,;:! ]", " ", _LATEX.sub("", text))
    text = re.sub(r"\\[dt]frac", r"\\frac", re.sub(r"\^\{([^{}]{0,40})\}", r"^\1", text))
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r" ?\n ?", "\n", re.sub(r"(?m)^[#>]{1,6} ?", "", text)).strip()
