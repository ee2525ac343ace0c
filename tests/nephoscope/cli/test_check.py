"""`check`: three stages, every problem, status 78."""

import json

import pytest

from nephoscope.cli.reload import Reload
from nephoscope.settings import load_settings

GOOD = "sources: [{name: s, meters: ['*'], sinks: [k]}]\nsinks: [{name: k, publishers: ['store://']}]\n"


def test_what_ships_is_right_here(nephoscope):
    done = nephoscope("check")

    assert (done.status, done.out) == (0, "correctness: ok\ntopology: ok\nenvironment: ok\n")


def test_every_problem_of_every_file_is_listed(nephoscope, tmp_path):
    (tmp_path / "pipeline.yaml").write_text(GOOD.replace("sinks: [k]", "sinks: [l]").replace("publishers", "publisher"))
    (tmp_path / "polling.yaml").write_text("sources: [{name: s, interval: 0, meters: []}]\n")
    (tmp_path / "own.yaml").write_text("\npartitions: 0\nlatness: 3\n")

    done = nephoscope("check", "pipeline.yaml", "polling.yaml", "own.yaml")

    assert done.status == 78
    assert "correctness: " in done.out
    for place in ("pipeline.yaml:1:", "pipeline.yaml:2:", "polling.yaml:1:", "own.yaml:2:", "own.yaml:3:"):
        assert place in done.err


def test_a_sink_that_no_source_feeds_is_a_warning(nephoscope, tmp_path):
    (tmp_path / "pipeline.yaml").write_text(
        "sources: [{name: s, meters: ['*'], sinks: [k]}]\n"
        "sinks: [{name: k, publishers: ['store://']}, {name: idle, publishers: ['store://']}]\n"
    )

    done = nephoscope("check", "pipeline.yaml")

    assert done.status == 0
    assert "'idle'" in done.err
    assert "[warning]" in done.err


def test_only_what_an_agent_of_the_namespace_would_poll_is_tried(nephoscope, tmp_path):
    (tmp_path / "polling.yaml").write_text(
        "sources: [{name: s, interval: 60, meters: [hardware.cpu.load.1min, instance]}]\n"
    )
    gone = ["--set", "polling_cfg_file=polling.yaml", "--set", "compute.libvirt_uri=test+unix:///none?socket=/nowhere"]

    everything = nephoscope("check", *gone)
    ipmi = nephoscope("check", *gone, "--namespace", "ipmi")
    wrong = nephoscope("check", *gone, "--namespace", "ipmy")

    assert everything.status == 78
    assert "libvirt" in everything.err
    assert (ipmi.status, "libvirt" in ipmi.err) == (0, False)
    assert wrong.status == 78
    assert "did you mean 'ipmi'" in wrong.err


def test_as_json(nephoscope, tmp_path):
    (tmp_path / "own.yaml").write_text("partitions: 0\n")

    done = nephoscope("check", "own.yaml", "--json")

    assert done.status == 78
    line = json.loads(done.out)
    assert (line["level"], line["stage"], line["line"]) == ("problem", "correctness", 1)


def test_the_environment_is_looked_at(nephoscope, tmp_path):
    (tmp_path / "taken").write_text("a file")

    done = nephoscope("check", "--set", "state_dir=taken")

    assert done.status == 78
    assert "state_dir" in done.err
    assert "environment: 1 problem" in done.out


def test_a_log_with_another_partition_count_is_a_problem(nephoscope):
    assert nephoscope("check").status == 0

    done = nephoscope("check", "--set", "partitions=8")

    assert done.status == 78
    assert "64 partitions, not 8" in done.err


def test_a_polling_that_forgets_its_series(nephoscope, tmp_path):
    (tmp_path / "polling.yaml").write_text("sources: [{name: slow, interval: 600, meters: ['hardware.*']}]\n")

    done = nephoscope("check", "--set", "polling_cfg_file=polling.yaml", "--set", "series_ttl=300")

    assert done.status == 78
    assert "polling.yaml:1:" in done.err


@pytest.mark.parametrize("text", ["hardware.cpu.laod.1min", "nonsense.*"])
def test_a_meter_that_no_pollster_gives_is_a_warning(nephoscope, tmp_path, text):
    (tmp_path / "polling.yaml").write_text(f"sources: [{{name: s, interval: 60, meters: ['{text}']}}]\n")

    done = nephoscope("check", "--set", "polling_cfg_file=polling.yaml")

    assert done.status == 0
    assert f"no pollster gives '{text}'" in done.err


@pytest.mark.parametrize(
    "url, said",
    [
        ("redis://me:hunter2@127.0.0.1:1", "redis://127.0.0.1:1 cannot be reached"),
        ("zookeeper://me:hunter2@127.0.0.1:1?timeout=2", "zookeeper://127.0.0.1:1 cannot be reached"),
        ("memcached://127.0.0.1:1", "memcached://127.0.0.1:1 cannot be reached"),
        ("rediss://me:hunter2@h?membership_timout=5", "did you mean 'membership_timeout'?"),
        ("etcd://me:hunter2@h", "there is no coordination back end 'etcd'"),
        ("hunter2", "is no URL"),
    ],
)
def test_a_wrong_back_end_is_a_problem_and_its_password_stays_secret(nephoscope, url, said):
    done = nephoscope("check", "--set", f"coordination.backend_url={url}")

    assert done.status == 78
    assert done.err.startswith("coordination.backend_url: ")
    assert said in done.err
    assert "hunter2" not in done.err + done.out
    assert "Traceback" not in done.err


def test_what_answers_garbage_is_no_back_end(nephoscope, redis):
    for kind in ("memcached", "zookeeper"):
        url = redis.replace("redis", kind) + ("?timeout=2" if kind == "zookeeper" else "")
        done = nephoscope("check", "--set", f"coordination.backend_url={url}")
        assert done.status == 78
        assert "no ZooKeeper" in done.err or "does not answer as a memcached does" in done.err
        assert "Traceback" not in done.err


def test_a_lateness_below_lease_and_catch_up_is_refused(nephoscope, redis):
    arguments = ("check", "--set", f"coordination.backend_url={redis}", "--set", "lateness=15")
    done = nephoscope(*arguments)
    assert done.status == 78
    assert done.err.startswith("lateness: 15 s is less than what a period of host needs where its agent dies")

    assert nephoscope(*arguments[:-1], "lateness=20").status == 0


CHAIN = "[{name: rate_of_change, parameters: {}}, {name: accumulator, parameters: {size: 2}}]"


def changed(nephoscope, tmp_path, before, after, *arguments):
    """The warnings of a check after a flow on `before` was started here, and its file then changed."""
    text = "sources: [{{name: s, meters: ['*'], sinks: [{name}]}}]\nsinks:\n  - {{name: {name}, transformers: {chain}, publishers: ['store://']}}\n"
    (tmp_path / "pipeline.yaml").write_text(text.format(name=before[0], chain=before[1]))
    (tmp_path / "nephoscope.yaml").write_text("pipeline_cfg_file: pipeline.yaml\nstate_dir: state\n")
    Reload(load_settings(tmp_path / "nephoscope.yaml"), print)
    assert nephoscope("check", *arguments).err == ""
    (tmp_path / "pipeline.yaml").write_text(text.format(name=after[0], chain=after[1]))
    done = nephoscope("check", *arguments)
    assert done.status == 0
    return done.err


@pytest.mark.parametrize("arguments", [(), ("pipeline.yaml",)], ids=["all", "the file"])
def test_a_renamed_sink_has_other_ids(nephoscope, tmp_path, arguments):
    said = changed(nephoscope, tmp_path, ("old", CHAIN), ("new", CHAIN), *arguments)

    assert "pipeline.yaml:3: sinks.new: renamed from 'old'" in said
    assert "other ids" in said
    assert len(said.splitlines()) == 1


def test_a_step_that_moved_is_another_and_one_with_other_parameters_the_same(nephoscope, tmp_path):
    moved = "[{name: accumulator, parameters: {size: 9}}, {name: rate_of_change, parameters: {}}, {name: accumulator, parameters: {}}]"
    said = changed(nephoscope, tmp_path, ("k", CHAIN), ("k", moved)).splitlines()

    assert len(said) == 3
    assert all(f"sinks.k.transformers[{n}]" in line and "other ids" in line for n, line in enumerate(said))
    assert changed(nephoscope, tmp_path, ("k", CHAIN), ("k", CHAIN.replace("2", "3"))) == ""


def test_what_goes_is_said(nephoscope, tmp_path):
    shorter = changed(nephoscope, tmp_path, ("k", CHAIN), ("k", "[{name: rate_of_change, parameters: {}}]"))
    other = changed(nephoscope, tmp_path, ("k", CHAIN), ("other", "[{name: delta, parameters: {}}]")).splitlines()

    assert "accumulator at the end" in shorter
    assert len(other) == 2
    assert "no such sink" in other[0]
    assert "'k' of the flow that runs here is gone" in other[1]


def test_a_file_of_dynamic_pollsters_is_known_by_its_keys(nephoscope, tmp_path):
    definition = "{name: a.b, sample_type: gauge, unit: B, url_path: 'http://api/things', value_attribute: size}\n"
    (tmp_path / "list.yaml").write_text("- " + definition)
    (tmp_path / "alone.yaml").write_text(definition.replace("unit", "unti"))

    assert nephoscope("check", "list.yaml").status == 0
    done = nephoscope("check", "alone.yaml")
    assert done.status == 78
    assert "alone.yaml:1: a.b: 'unti' is not known here (did you mean 'unit'?)" in done.err


def test_what_is_wrong_in_a_target_or_the_file_of_hosts_is_listed_without_its_secret(nephoscope, tmp_path):
    (tmp_path / "hosts").write_text("10.0.0.1 credential=rack1\nsnmp://s3cret@h/x\n10.0.0.3\n")
    (tmp_path / "polling.yaml").write_text(
        "sources:\n"
        "  - {name: rack, interval: 60, meters: ['hardware.*', energy], resources: ['snmp://s3cret@h?credential=x', 'snmp://s3cret@h',\n"
        "     'ipmi://u:s3cret@h?cipher=x', 'kwapi://s3cret@h', 'ipmi://u:s3cret@h', localhost]}\n"
    )
    (tmp_path / "nephoscope.yaml").write_text("polling_cfg_file: polling.yaml\nhardware: {hosts: hosts}\n")

    done = nephoscope("check")

    assert done.status == 78
    assert done.err.count("polling.yaml:2: sources.rack.resources: ") == 3
    for words in ("names a credential, and a community", "cipher is a number", "a token belongs into a credential"):
        assert words in done.err
    assert "hosts:1: snmp://10.0.0.1?credential=rack1: there is no credential 'rack1'" in done.err
    assert "hosts:2: snmp://***@h/x is no snmp://" in done.err
    assert "s3cret" not in done.err + done.out
