"""The file of hosts."""

import logging

import pytest

from nephoscope.settings import load_settings
from sources import inventory
from sources.snmp import system

TEXT = """\
# rack 1
10.0.0.1
10.0.0.2:1161  credential=rack1 version=1   # the old one

[2001:db8::1] credential=rack1
snmp://s3cret@10.0.0.3
ipmi://operator@10.0.1.2 credential=bmc
kwapi://energy:5000
10.0.0.1
what?
10.0.0.9 rack1
"""


@pytest.fixture
def hardware(tmp_path):
    file = tmp_path / "hosts"
    file.write_text(TEXT)
    return load_settings(environment={}, flags={"state_dir": tmp_path, "hardware.hosts": str(file)}).hardware


def test_hosts_become_urls_of_their_scheme(hardware):
    assert inventory.discovery(hardware, "snmp")() == [
        "snmp://10.0.0.1",
        "snmp://10.0.0.2:1161?credential=rack1&version=1",
        "snmp://[2001:db8::1]?credential=rack1",
        "snmp://s3cret@10.0.0.3",
    ]
    assert inventory.discovery(hardware, "ipmi")("") == ["ipmi://operator@10.0.1.2?credential=bmc"]
    assert inventory.discovery(hardware, "kwapi")() == ["kwapi://energy:5000"]


def test_it_is_read_again_each_time_and_may_be_another(hardware, tmp_path):
    find = inventory.discovery(hardware, "snmp")
    hardware.hosts.write_text("10.0.0.7\n")
    assert find() == ["snmp://10.0.0.7"]
    (tmp_path / "other").write_text("10.0.0.8\n")
    assert find(str(tmp_path / "other")) == ["snmp://10.0.0.8"]
    hardware.hosts.unlink()
    with pytest.raises(OSError, match=r"cannot read .*hosts: No such file"):
        find()


def test_a_line_that_is_none_is_said_once_and_the_others_stay(hardware, caplog):
    caplog.set_level(logging.WARNING)
    find = inventory.discovery(hardware, "snmp")
    assert len(find()) == len(find()) == 4
    assert caplog.text.count("hosts:10: begins with no host") == 1
    assert caplog.text.count("hosts:11: behind the host there may be options") == 1


def test_without_a_file_there_are_none(tmp_path):
    nothing = load_settings(environment={}, flags={"state_dir": tmp_path}).hardware
    assert inventory.discovery(nothing, "snmp")() == []


def test_check_says_what_is_wrong_in_it_without_secrets(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("10.0.0.1 credential=nowhere\nsnmp://s3cret@h/x\n?\n")
    one = system(load_settings(environment={}, flags={"state_dir": tmp_path, "hardware.hosts": str(file)}))
    said = [str(p) for p in one.check({"hardware.memory.used"})]
    one.close()

    assert [s.partition(": ")[0].rpartition(":")[2] for s in said] == ["3", "1", "2"]
    assert "there is no credential 'nowhere'" in said[1]
    assert "s3cret" not in "".join(said)
