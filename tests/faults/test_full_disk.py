"""A few sizes of the script; `python -m tests.faults.full_disk` has all."""

import pytest

from tests.faults import full_disk


@pytest.mark.slow
@pytest.mark.skipif(not full_disk.is_possible(), reason="user namespaces are needed to mount disks")
def test_a_full_disk_ends_each_job_in_one_line(capsys):
    assert full_disk.main(short=True) == 0, capsys.readouterr().out
