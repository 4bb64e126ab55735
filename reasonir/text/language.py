"""Is a text English prose?"""

import re

ENGLISH_LIST = (
    "the of and to in is that it for was on are as with his they be at one have this from or had by but what some we "
    "can out other were all there when up use your how said an each she which do their time if will way about many "
    "then them would like so these her long make see him two has more could did my no most who over than first been "
    "now any where why while because between after before should does into only also such not you he i a me our us "
    "its much very those being through both same just here let given show find every under without am get"
)
ENGLISH = frozenset(ENGLISH_LIST.split())
FOREIGN = {
    "German": "der die das und ist nicht ein eine einen einem einer eines mit von zu den dem des auf für sich auch als "
    "wird sind im bei nach wie durch oder werden aus wenn dass kann zum zur ich wir sie es über um zwischen welche",
    "Spanish": "el la los las de que y en un una por con para del se es su al lo como más o pero sus le esta este "
    "entre cuando muy sobre también hay donde son fue qué cómo si cuál está",
    "French": "le la les des et un une du que qui dans pour sur est pas ne par avec ce il au plus sont cette aux ou "
    "mais comme nous vous être ont en de se quel quelle comment",
    "Italian": "il la che di e un una per con non del si della sono dei al da le nel come più anche gli delle questo",
    "Portuguese": "o que e de do da em um para com não uma os se na por mais dos como foi ao das são é também pelo",
    "Dutch": "de het een van en dat op te zijn met voor niet aan er om ook als maar door bij naar wordt worden deze",
    "Scandinavian": "och att det som en på är av för med den inte till har de var jag og er af ikke ett kan om vid",
    "Polish": "i w na z się nie do że to jest o jak po od dla przez oraz są który która",
    "Indonesian": "yang dan di dengan untuk pada ini dari dalam adalah tidak itu oleh akan dapat",
    "Turkish": "ve bir bu için ile da de çok olarak olan gibi daha ne",
}
FOREIGN_WORDS = {name: frozenset(row.split()) - (ENGLISH - {"die"}) for name, row in FOREIGN.items()}
NOT_PROSE = re.compile(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]{0,400}\$|\\[a-zA-Z]+|https?://\S+", re.DOTALL)
# Single letters are names of variables more often than words, and letters beside digits belong to formulas.
LETTERS_WORD = re.compile(r"(?<!\w)[^\W\d_]{2,}(?:['\u2019][^\W\d_]+)?(?!\w)")
OTHER_SCRIPT = re.compile(r"[\u0400-\u06ff\u0900-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
GREEK_WORD = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]{4,}")  # shorter runs are formulas
LATIN_LETTER = re.compile(r"[A-Za-z\u00c0-\u024f]")
SHORT_WORDS = 6


def looks_english(text: str) -> bool:
    """Say whether a text is English prose, or too short or too formal to tell.

    Code, formulas and links are left out first. No: over 30 % of the letters are of another script; another
    language's function words outnumber the English ones; or hardly any English function word stands among many
    accented ones. Fewer than six words of Latin letters pass. Limits: a language outside the list of ten without
    accents passes (romanised Hindi, Swahili), and so does a text of names and numbers alone.
    """
    other = len(OTHER_SCRIPT.findall(text)) + sum(map(len, GREEK_WORD.findall(text)))
    if other > 0.3 * (other + len(LATIN_LETTER.findall(text))):
        return False
    found = [word.casefold() for word in LETTERS_WORD.findall(NOT_PROSE.sub(" ", text))]
    if len(found) < SHORT_WORDS:
        return True
    english = sum(word in ENGLISH or "'" in word or "\u2019" in word for word in found) / len(found)
    foreign = max(sum(word in known for word in found) / len(found) for known in FOREIGN_WORDS.values())
    accented = sum(not word.isascii() for word in found if len(word) > 2) / len(found)
    return not ((foreign > english and foreign >= 0.12) or (english < 0.05 and accented >= 0.12))
