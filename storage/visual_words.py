"""The visual vocabulary: names of things that people collected photographs of, from files that come with timm."""

from __future__ import annotations

import csv
import re
from importlib import resources

from configs.errors import UserError
from storage.word_vectors import WordVectors, match_nonzero

SYNSETS = "imagenet21k_miil_w21_synsets.txt"
LEMMAS = "imagenet_synset_to_lemma.txt"
PEOPLE = ("person", "man", "woman", "boy", "girl", "child")
"""The release took general names of people out, together with those that no picture can show."""
CONCRETE_STOP_WORDS = frozenset({"computer", "fire", "mill"})
"""Names of things that are on gensim's list of stop words."""
MISLEADING = frozenset(
    """
    accommodation afghan amazon annual arabian area array assembly atlas background balance base bearing ben berlin
    berth billy binding birth bit bitter blackburn blind boom bordeaux broadcasting buck buffer bush cardinal case cast
    china chuck collection collins cologne colt combine compact composite connection contact control core course craft
    daily danish date davenport den descent diet dip disposal doubles downhill drake drive durham economist electric
    empire engineering establishment express facing fare felt fight filling flip float formula general geneva hampshire
    hart highland hip holder holly hop housing indicator institution interface irish jack jay jean jersey kirk kurdistan
    level local major male manhattan master match mate measure mecca mechanism memory miller ministry module morgan
    movement negative network newfoundland newt objective opener ordinary ottoman overall oxford parallel partition
    pentagon permit pick place plain point polish poll pop portable porter portfolio post pound press principal pull
    pulse punch range rape reception recess recording regulator relay rig rouge rough royal rule safe saw secretary
    separate settle singles slick slot sour sovereign special split spoke spur stable stand starter steep stock
    stronghold study suspension swift tender terry tom trigger turkey turner turnover uphill vintage walker ward
    watchdog weight western world young
    """.split()
)
"""Of the 1,000 most frequent candidates those whose everyday meaning, which the vectors learned, is no thing that a
picture shows (`level`), or another one (`felt`, `polish`, `turkey`). Chosen by eye."""
VISUAL_RULE = (
    f"first lemmas of the synsets in timm's {SYNSETS} and {'/'.join(PEOPLE)}, lower case; single words a-z of three or "
    "more letters, and phrases of two words that are one token; no stop word (gensim's list) but "
    f"{'/'.join(sorted(CONCRETE_STOP_WORDS))}; {len(MISLEADING)} words left out by eye; in the file's order of "
    "frequency; 1"
)
"""In short, for digests. A change that the text does not show, as one of MISLEADING, raises the number at its end."""
_WORD = re.compile(r"[a-z]{3,}")
_PHRASE = re.compile(r"[a-z]{2,} [a-z]{2,}")


def find_visual_words(vectors: WordVectors) -> list[str]:
    """Concrete words, most frequent first.

    They are lemmas of the 10,450 synsets of ImageNet-21k-P (Ridnik et al. 2021) in the release of winter 2021: nouns
    with at least 500 photographs, of people only those that are safe and that a picture can show (Yang et al. 2020).
    A lemma counts that is the first, i.e. commonest, name of a synset. General names of people (PEOPLE) are added.

    Taken are single words (a-z, three letters or more) with a vector, and phrases of two words that the vectors have
    as one token (`hotdog`) which is no word of the list itself. Left out are stop words, except CONCRETE_STOP_WORDS,
    and the MISLEADING ones.

    Raises:
        UserError: the vectors have none of the words.
    """
    from gensim.parsing.preprocessing import STOPWORDS

    excluded = (STOPWORDS - CONCRETE_STOP_WORDS) | MISLEADING
    names = [n for n in _read_first_lemmas() if n not in excluded and (_WORD.fullmatch(n) or _PHRASE.fullmatch(n))]
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda n: " " in n):
        match = match_nonzero(vectors, name)
        if match.how in ("exact", "joined"):
            found.setdefault(match.tokens[0], name)
    if not found:
        raise UserError(
            "words.vocabulary: found none of the visual words in the word vectors; allowed: English vectors with "
            "lower-case words; use others, set words.vocabulary to frequent, or give words.vocabulary_file"
        )
    return [found[token] for token in sorted(found, key=vectors.index.__getitem__)]


def _read_first_lemmas() -> list[str]:
    """Each once, lower case, in the order of the synsets; PEOPLE last."""
    rows = csv.reader(_read(LEMMAS).splitlines(), delimiter="\t")
    first = {synset: lemmas.partition(",")[0].strip().lower() for synset, lemmas in rows}
    return list(dict.fromkeys([*(first[synset] for synset in _read(SYNSETS).split()), *PEOPLE]))


def _read(name: str) -> str:
    return resources.files("timm.data").joinpath("_info", name).read_text("utf-8")
