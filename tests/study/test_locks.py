"""A file that one process holds: another is told, and no link leads elsewhere."""

import os

import pytest

from privacy.errors import UserError
from study.locks import hold, is_held


def test_what_is_held_is_refused_until_it_is_let_go(tmp_path):
    path = tmp_path / "site" / "keeper.lock"
    path.parent.mkdir()
    assert not is_held(path)
    handle = hold(path)
    assert is_held(path)
    with pytest.raises(UserError, match="site runs already"):
        hold(path)
    os.close(handle)
    assert not is_held(path)
    os.close(hold(path))


def test_no_link_is_followed(tmp_path):
    (tmp_path / "a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        hold(tmp_path / "a.lock")
    assert not is_held(tmp_path / "a.lock")
    assert not (tmp_path / "elsewhere").exists()
