"""Names that become names of files, checked once, where they enter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from samunet.errors import MOST_NAMES, DatasetError

DEFAULT_TRAINER, DEFAULT_PLANS_NAME = "SAMTrainer", "samunetPlans"
DEFAULT_TOLERANCE_MM = 2.0  # of the normalized surface Dice; pixels where files tell no size
LONGEST_FILE_NAME = 255  # bytes, of most file systems
MOST_BYTES = 200  # of a case's name, which endings such as _0000.nii.gz follow
FORBIDDEN = '/\\:*?"<>|'  # separators, and what Windows allows in no name
# Unicode categories: control and format characters, undecodable bytes, line ends.
UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"  # of such characters, those that are part of words in Persian and Indic scripts
# Words that tell labels and images from each other.
MASK = re.compile("segm?(entations?)?|masks?|labels?|lbl|gt|(ground)?truth|annotations?|dseg")
LABEL = re.compile(f"{MASK.pattern}|ground|manual|rois?")  # the last three are of images too: manual focus
IMAGE = re.compile("images?|imgs?|imaging|im|scans?|vol(umes?)?|raw|orig(inal)?|inputs?|pictures?|dicom|dcm")
PREDICTION = re.compile("predictions?|preds?|outputs?|results?")  # folders that are neither

_BYTE = {chr(0xDC00 + byte): f"\\x{byte:x}" for byte in range(0x80, 0x100)}
"""How Python reads bytes of file names that are no UTF-8, to the bytes as people write them: M\\xfcller."""


def journal_of(label: Path) -> Path:
    """Return the journal of a label file: what was done to it by hand, where it is there."""
    return label.absolute().parent / ".annotating" / f"{label.name}.journal"


def fault_of_name(name: object, most_bytes: int = MOST_BYTES) -> str | None:
    """Say why something cannot be the name of a file, as in "begins with a dot"; None where it can."""
    if not isinstance(name, str) or not name:
        return "is empty" if name == "" else "is no text"
    if name.startswith("."):
        return "begins with a dot"
    if name != name.strip():
        return "begins or ends with a space"
    for character in name:
        if character in FORBIDDEN or (unicodedata.category(character) in UNSEEN and character not in JOINERS):
            byte = _BYTE.get(character)
            return f"holds the character {character!r}" if byte is None else f"holds the byte {byte}, which is no UTF-8"
    length = len(name.encode())
    return f"has {length} bytes, more than {most_bytes}" if length > most_bytes else None


def in_utf8(name: str) -> str:
    """Return a file name in which bytes that are no UTF-8 stand as in web addresses, M%FCller."""
    return "".join(f"%{ord(character) - 0xDC00:X}" if character in _BYTE else character for character in name)


def listed(names: Sequence[str]) -> str:
    """Return names of files for a sentence: the first five of them, in UTF-8."""
    return ", ".join([*map(in_utf8, names[:MOST_NAMES]), *(["..."] if names[MOST_NAMES:] else [])])


def is_name(value: object) -> bool:
    """Tell whether a value can name a channel or class: text of one line, 200 characters at most."""
    if not isinstance(value, str) or value.splitlines() != [value]:
        return False
    return 0 < len(value.strip()) <= 200 and "\0" not in value


def words_in(text: str) -> list[str]:
    """Return the words and numbers of a name: T2, leftKidney and case_01 give T 2, left Kidney and case 01."""
    return re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W_A-Za-z\d]+", text)


def role_of(words: Iterable[str]) -> str:
    """Return what words of a name say that a file is: "label", "image" or nothing."""
    for role, pattern in (("label", LABEL), ("image", IMAGE)):
        if any(pattern.fullmatch(word.lower()) for word in words):
            return role
    return ""


def brief(value: object) -> str:
    """Return the beginning of a value from a file, for messages."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def check_case_name(name: object, where: object, most_bytes: int = MOST_BYTES) -> None:
    """Refuse a name of a case that would lead elsewhere than to a file of its own in the folder meant; raises
    DatasetError with the code "case-name".

    Letters of any script, digits, spaces and marks such as . - _ + ( ) are fine.

    Args:
        where: the file or folder that names the case, for the message.
    """
    fault = fault_of_name(name, most_bytes)
    if fault is not None:
        shown = repr(name) if len(str(name)) <= 60 else f"{str(name)[:60]!r}..."
        for escaped, byte in _BYTE.items():
            shown = shown.replace(repr(escaped)[1:-1], byte)
        message = (
            f"{where}: the case name {shown} {fault}; rename the case, with letters, digits, spaces and marks such as "
            ". - _ + ( )."
        )
        raise DatasetError(message, "case-name")
