"""What a domain's XML says: one that Nova wrote, and what differs from it."""

import json
from pathlib import Path

import pytest

from sources.libvirt.domain import instance_of

UUID = "5fab1f05-f4e1-4ec4-8d8e-f3121555f46a"
XML = (Path(__file__).parents[2] / "data/libvirt/nova-domain.xml").read_text()
RUNNING, PAUSED = 1, 3


def read(xml=XML, state=RUNNING):
    return instance_of(UUID, "instance-00000005", xml, state, "compute-1")


def test_user_project_and_metadata_are_as_ceilometer_made_them():
    instance = read()

    assert instance.user == "858012bb93cf4652bcc4c4d76d87eabf"
    assert instance.project == "0fd8ffc192ab432c919f6cb4d94f3393"
    assert json.loads(instance.metadata) == {
        "display_name": "real-1",
        "name": "instance-00000005",
        "instance_id": UUID,
        "instance_type": "m1.nano",
        # sha224 of project and host, as Nova's API has it.
        "host": "134478be178a2c0a98058d44c944032912906073cc337cc20f1af5f6",
        "instance_host": "compute-1",
        "flavor": {"id": None, "name": "m1.nano", "vcpus": 1, "ram": 32, "disk": 0, "ephemeral": 0, "swap": 0},
        "status": "active",
        "state": "running",
        "task_state": "",
        "image": {"id": "a109e558-d9bd-49dd-a81e-617796377dfe"},
        "image_ref": "a109e558-d9bd-49dd-a81e-617796377dfe",
        "image_ref_url": None,
        "architecture": "x86_64",
        "os_type": "hvm",
        "vcpus": 1,
        "memory_mb": 32,
        "disk_gb": 0,
        "ephemeral_gb": 0,
        "root_gb": 0,
        "cpu_number": 1,
        "device": ["vda"],
    }


def test_disks_and_interfaces_have_ceilometers_resources():
    instance = read()

    assert {dev: disk.resource for dev, disk in instance.disks.items()} == {"vda": f"{UUID}-vda"}
    assert json.loads(instance.disks["vda"].metadata)["disk_name"] == "vda"
    (nic,) = instance.nics.values()
    assert nic.resource == f"instance-00000005-{UUID}-tap8752b2dd-f9"
    about = json.loads(nic.metadata)
    assert about["mac"] == "fa:16:3e:4f:c3:54"
    assert about["name"] == about["vnic_name"] == "tap8752b2dd-f9"
    assert about["fref"] is None
    assert about["parameters"] == {"interfaceid": None, "bridge": "brq2f989b1d-c2"}
    assert about["display_name"] == "real-1"


def test_an_interface_with_a_filter_is_known_by_it():
    filtered = "<filterref filter='nova-i-5'><parameter name='IP' value='10.0.1.10'/></filterref><model type='virtio'/>"

    (nic,) = read(XML.replace("<model type='virtio'/>", filtered)).nics.values()

    assert nic.resource == "nova-i-5"
    assert json.loads(nic.metadata)["vnic_name"] == "nova-i-5"
    assert json.loads(nic.metadata)["parameters"]["ip"] == "10.0.1.10"


def test_a_drive_without_a_medium_is_no_disk():
    drive = "<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk><controller type='usb'"

    assert list(read(XML.replace("<controller type='usb'", drive, 1)).disks) == ["vda"]


@pytest.mark.parametrize("vcpu,number", [("<vcpu>4</vcpu>", 4), ("<vcpu placement='static' current='2'>8</vcpu>", 2)])
def test_cpu_number_is_what_the_guest_has_now(vcpu, number):
    xml = XML.replace("<vcpu placement='static'>1</vcpu>", vcpu)

    assert json.loads(read(xml).metadata)["cpu_number"] == number


def test_states_have_novas_words():
    about = json.loads(read(state=PAUSED).metadata)

    assert (about["status"], about["state"]) == ("paused", "paused")


def test_the_older_namespace_is_read_and_an_instance_from_a_volume_has_no_image():
    xml = XML.replace("/nova/1.1", "/nova/1.0").replace('type="image"', 'type="volume"')
    about = json.loads(read(xml).metadata)

    assert about["display_name"] == "real-1"
    assert about["image"] is about["image_ref"] is None


def test_a_domain_that_nova_has_not_made_has_what_libvirt_knows():
    bare = instance_of(UUID, "router", "<domain><vcpu>2</vcpu></domain>", RUNNING, "h")

    assert (bare.user, bare.project, bare.disks, bare.nics) == ("", "", {}, {})
    about = json.loads(bare.metadata)
    assert about["display_name"] == "router"
    assert about["instance_type"] is about["flavor"] is None
    assert about["vcpus"] == about["cpu_number"] == 2


def test_names_keep_what_xml_escapes():
    assert json.loads(read(XML.replace("real-1", "a &lt;b&gt; &amp; c")).metadata)["display_name"] == "a <b> & c"
