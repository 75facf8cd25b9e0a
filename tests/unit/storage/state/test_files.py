from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lavise.storage.state.files import sync


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_folders_that_cannot_be_synced_are_left_to_the_server() -> None:
    """/proc refuses it as SMB does; of a file it is an error all the same."""
    sync(Path("/proc"))
    with pytest.raises(OSError, match="Invalid argument"):
        sync(Path("/proc/self/stat"))
