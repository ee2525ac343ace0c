"""`meters --known`: what is polled, notified and computed here, of the code itself."""

import json


def known(done):
    assert done.status == 0, done.err
    return {(m["name"], m["source"].partition(" ")[0]): m for m in map(json.loads, done.out.splitlines())}


def test_it_tells_where_each_meter_comes_from(nephoscope, tmp_path):
    found = known(nephoscope("meters", "--known", "--json"))

    assert found["hardware.cpu.load.1min", "polled"]["namespace"] in {"compute", "central"}
    assert found["image.size", "notified"]["unit"] == "B"
    assert found["image.size", "polled"]["source"] == "polled by openstack.images"
    assert found["identity.user.created", "notified"]["description"] == "made of identity.user.created"
    assert ("identity.authenticate.{payload.outcome}", "notified") in found
    assert found["hardware.cpu.util", "computed"] == {
        "name": "hardware.cpu.util", "type": "gauge", "unit": "%", "resource": "host", "source": "computed", "namespace": "",
        "description": "rate_of_change of compute.node.cpu.time",
    }  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_it_takes_the_users_own_pipeline_and_pollsters(nephoscope, tmp_path):
    (tmp_path / "pollsters.d").mkdir()
    (tmp_path / "pollsters.d/a.yaml").write_text(
        "{name: my.things, sample_type: cumulative, unit: thing, url_path: 'http://api/things', value_attribute: size, description: How many}"
    )
    (tmp_path / "p.yaml").write_text(
        "sources: [{name: a, meters: [my.things], sinks: [b]}]\n"
        "sinks: [{name: b, publishers: ['store://'], transformers: [{name: rate_of_change, parameters: {target: {name: my.rate, type: gauge}}}]}]\n"
    )
    found = known(
        nephoscope(
            "meters",
            "--known",
            "--json",
            "-s",
            "pipeline_cfg_file=p.yaml",
            "-s",
            "pollsters_definitions_dirs=pollsters.d",
        )
    )

    assert found["my.things", "polled"]["description"] == "How many"
    assert found["my.rate", "computed"]["description"] == "rate_of_change of my.things"
    assert ("hardware.cpu.util", "computed") not in found


def test_it_asks_no_store(nephoscope):
    assert nephoscope("meters", "--known", "-q", "resource_id=x").status == 2
