"""`who` gives the number that all parts use."""

import json

from nephoscope.partition import partition


def test_the_partition_of_a_resource(nephoscope):
    done = nephoscope("who", "vm-1", "--set", "partitions=8", "--json")

    assert done.status == 0
    assert json.loads(done.out)["partition"] == partition("vm-1", 8)


def test_a_wrong_setting_is_status_78(nephoscope):
    done = nephoscope("who", "vm-1", "--set", "partitions=0", "--set", "latness=1")

    assert done.status == 78
    assert "command line: partitions:" in done.err
    assert "did you mean 'lateness'?" in done.err
    assert done.out == ""
