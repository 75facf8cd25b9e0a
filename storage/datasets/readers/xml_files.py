"""XML files of somebody else: elements and text only. A document type, with which entities come, is refused."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

__all__ = ["Element", "XmlError", "read_xml"]


class XmlError(Exception):
    """The file is no XML, or holds what is not read; the message says which."""


def read_xml(path: Path) -> Element:
    """The outermost element.

    Raises:
        XmlError: cannot be read, is no XML, or has a document type (so that no entity is ever expanded).
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except expat.ExpatError as err:
        raise XmlError(f"no XML: {err}") from None
    except (UnicodeError, LookupError, ValueError) as err:
        raise XmlError(f"in no encoding that is known: {err}") from None
    except OSError as err:
        raise XmlError(f"cannot be read: {err.strerror}") from None


def _refuse(*declaration: object) -> None:
    raise XmlError("has a document type (<!DOCTYPE ...>), which is refused")
