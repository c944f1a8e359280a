"""Every planted bug is caught by the check that passes without it."""

from __future__ import annotations

import pytest

from ptx.emulator import missing
from ptx.gallery import BUGS, Bug, planted

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught(bug: Bug) -> None:
    bench = planted(bug)
    with pytest.raises(AssertionError):
        bug.check(bench)
