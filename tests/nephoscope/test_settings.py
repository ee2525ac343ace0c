"""Settings: what beats what, references to secrets, and mistakes with file, line and the nearest word."""

from pathlib import Path

import pytest

from nephoscope import settings
from nephoscope.errors import ConfigError
from nephoscope.settings import load_settings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No settings file of this machine plays a part."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "PLACES", (Path("nephoscope.yaml"),))


def written(tmp_path, text, name="mine.yaml"):
    file = tmp_path / name
    file.write_text(text)
    return file


def problems_of(file=None, environment=None, flags=None):
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environment=environment or {}, flags=flags)
    return caught.value.problems


def test_the_shipped_file_gives_every_setting():
    found = load_settings(environment={})

    assert found.partitions == 64
    assert found.lateness == 120
    assert found.database.metering_time_to_live == -1
    assert found.pipeline_cfg_file is None


def test_every_setting_has_a_comment_above_it():
    lines = settings.shipped("nephoscope.yaml").read_text().splitlines()
    for key in settings.setting_names():
        places = [i for i, line in enumerate(lines) if line.strip().startswith(key.rpartition(".")[2] + ":")]
        assert places, key
        for at in places:
            assert lines[at - 1].strip().startswith("## "), key
            assert lines[at - 1].rstrip().endswith((".", "@host/db")), key


def test_a_file_beats_the_default_a_variable_the_file_a_flag_the_variable(tmp_path):
    file = written(tmp_path, "lateness: 1\nmax_ahead: 1\nmax_future: 1\n")
    variables = {"NEPHOSCOPE_LATENESS": "2", "NEPHOSCOPE_MAX_AHEAD": "2"}

    found = load_settings(file, environment=variables, flags={"lateness": "3"})

    assert (found.lateness, found.max_ahead, found.max_future, found.series_ttl) == (3, 2, 1, 86400)


def test_a_file_is_found_by_variable_and_in_the_current_folder(tmp_path):
    written(tmp_path, "partitions: 8\n", "nephoscope.yaml")
    other = written(tmp_path, "partitions: 16\n", "other.yaml")

    assert load_settings(environment={}).partitions == 8
    assert load_settings(environment={"NEPHOSCOPE_CONFIG": str(other)}).partitions == 16


def test_sections_by_variable_and_flag():
    variables = {"NEPHOSCOPE_LOG__RETENTION": "5"}

    found = load_settings(environment=variables, flags={"database.metering_time_to_live": 60})

    assert found.log.retention == 5
    assert found.log.url == "embedded"
    assert found.database.metering_time_to_live == 60


def test_sections_within_sections_and_mappings(tmp_path):
    file = written(
        tmp_path,
        "log:\n  kafka:\n    replication: 3\n    sasl_password: ${env:SECRET}\n"
        "    options: {client.rack: '${env:RACK}', log_level: 3, socket.keepalive.enable: true}\n",
    )
    variables = {"SECRET": "hush", "RACK": "b2", "NEPHOSCOPE_LOG__KAFKA__TIMEOUT": "9"}

    kafka = load_settings(file, environment=variables).log.kafka

    assert (kafka.replication, kafka.timeout, kafka.sasl_password.get_secret_value()) == (3, 9, "hush")
    assert kafka.options == {"client.rack": "b2", "log_level": "3", "socket.keepalive.enable": "true"}
    assert "hush" not in repr(kafka)
    given = {"NEPHOSCOPE_LOG__KAFKA__OPTIONS": "client.rack=a1,log_level=2"}
    assert load_settings(environment=given).log.kafka.options == {"client.rack": "a1", "log_level": "2"}


def test_what_is_wrong_within_a_section_is_found_at_its_line(tmp_path):
    text = "log:\n  kafka:\n    replicas: 3\n    timeout: soon\n    options: {a: [1]}\n"
    with pytest.raises(ConfigError) as told:
        load_settings(written(tmp_path, text), environment={})

    found = {p.field: p for p in told.value.problems}
    assert found["log.kafka.replicas"].line == 3
    assert "replication" in found["log.kafka.replicas"].hint
    assert found["log.kafka.timeout"].line == 4
    assert found["log.kafka.options"].line == 5


@pytest.mark.parametrize(
    "text",
    [
        "time_to_live: 9",
        "metering_time_to_live: 9",
        "database:\n  time_to_live: 9",
        "database: {metering_time_to_live: 9}",
    ],
)
def test_ceilometers_names_for_the_time_to_live(tmp_path, text):
    assert load_settings(written(tmp_path, text), environment={}).database.metering_time_to_live == 9


def test_paths_start_at_the_file_that_names_them(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "p.yaml").write_text("")
    file = written(tmp_path / "etc", "state_dir: ../state\npipeline_cfg_file: p.yaml\n")

    found = load_settings(file, environment={})

    assert found.state_dir.resolve() == tmp_path / "state"
    assert found.pipeline_cfg_file == tmp_path / "etc" / "p.yaml"
    assert found.pipeline_file() == found.pipeline_cfg_file


def test_the_default_store_and_log_lie_in_state_dir(tmp_path):
    found = load_settings(environment={}, flags={"state_dir": str(tmp_path / "s")})

    assert found.store_url == f"sqlite:///{tmp_path}/s/samples.db"
    assert found.log_path == tmp_path / "s" / "log.db"


def test_secrets_by_reference_are_read_and_do_not_show(tmp_path):
    (tmp_path / "secret").write_text("from a file\n")
    file = written(
        tmp_path,
        f"telemetry_secret: ${{file:{tmp_path}/secret}}\ndatabase:\n  connection: mysql://u:${{env:PW}}@h/d\n",
    )

    found = load_settings(file, environment={"PW": "hush"})

    assert found.telemetry_secret.get_secret_value() == "from a file"
    assert found.store_url == "mysql://u:hush@h/d"
    assert "hush" not in repr(found)
    assert "hush" not in str(found.model_dump())


def test_a_reference_that_leads_nowhere_says_so(tmp_path):
    file = written(tmp_path, "telemetry_secret: ${env:NOPE}\nsample_source: ${file:/no/such}\nstate_dir: ${vault:x}\n")

    found = {(p.line, p.field): p.message for p in problems_of(file)}

    assert found[1, "telemetry_secret"] == "the variable NOPE is not set"
    assert "cannot read /no/such" in found[2, "sample_source"]
    assert "${env:NAME}" in found[3, "state_dir"]


def test_all_problems_are_found_in_one_go_with_their_places(tmp_path):
    file = written(tmp_path, "latness: 5\npartitions: many\nlog:\n  retention: -1\n  ulr: x\ndatabase: 3\n")

    found = {p.field: p for p in problems_of(file, {"NEPHOSCOPE_MAX_AHEAD": "soon"}, {"nope": "1"})}

    assert found["latness"].line == 1
    assert "'lateness'" in found["latness"].hint
    assert found["latness"].file == str(file)
    assert found["partitions"].line == 2
    assert "integer" in found["partitions"].message
    assert found["log.retention"].line == 4
    assert found["log.ulr"].line == 5
    assert found["database"].line == 6
    assert found["max_ahead"].file == "environment"
    assert found["nope"].file == "command line"


def test_a_variable_that_is_nearly_a_setting_is_refused_others_are_left_alone():
    load_settings(environment={"NEPHOSCOPE_SERVICE_HOST": "10.0.0.1", "NEPHOSCOPE_PORT_80_TCP": "tcp://10.0.0.1:80"})

    (problem,) = problems_of(environment={"NEPHOSCOPE_LATENES": "5"})

    assert "NEPHOSCOPE_LATENESS" in problem.hint


@pytest.mark.parametrize("text", ["[1, 2]", "lateness: [", "just words"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    assert problems_of(written(tmp_path, text))


def test_a_file_that_is_not_there(tmp_path):
    (problem,) = problems_of(tmp_path / "none.yaml")

    assert "none.yaml" in str(problem)


def test_an_empty_file_changes_nothing(tmp_path):
    assert load_settings(written(tmp_path, ""), environment={}).partitions == 64


def test_a_pipeline_that_is_not_there_is_a_problem_of_the_setting(tmp_path):
    (problem,) = problems_of(written(tmp_path, "\npipeline_cfg_file: gone.yaml\n"))

    assert (problem.line, problem.field) == (2, "pipeline_cfg_file")


def test_folders_of_definitions_start_where_their_file_is(tmp_path):
    (tmp_path / "conf/pollsters.d").mkdir(parents=True)
    (tmp_path / "more").mkdir()
    file = written(tmp_path / "conf", "pollsters_definitions_dirs: [pollsters.d]\n")

    assert load_settings(file, environment={}).pollsters_definitions_dirs == (tmp_path / "conf/pollsters.d",)
    several = load_settings(file, environment={}, flags={"pollsters_definitions_dirs": "more, conf/pollsters.d"})
    assert [f.name for f in several.pollsters_definitions_dirs] == ["more", "pollsters.d"]
    (problem,) = problems_of(written(tmp_path, "pollsters_definitions_dirs: [nowhere]\n"))
    assert (problem.line, problem.message) == (1, f"there is no folder {tmp_path}/nowhere")


def test_credentials_hold_references_and_are_shown_nowhere(tmp_path):
    (tmp_path / "community").write_text("s3cret-1\n")
    file = tmp_path / "own.yaml"
    file.write_text(
        "hardware:\n  credentials:\n    rack: {community: '${file:%s}'}\n    core: {user: u, password: '${env:AUTH}', auth_proto: sha}\n"
        % (tmp_path / "community")
    )
    found = settings.load_settings(file, environment={"AUTH": "s3cret-2"})

    assert found.hardware.credential("rack").community.get_secret_value() == "s3cret-1"
    assert found.hardware.credential("core").password.get_secret_value() == "s3cret-2"
    assert found.hardware.credential("") is None
    assert "s3cret" not in repr(found)
    as_text = {"NEPHOSCOPE_HARDWARE__CREDENTIALS": '{"default": {"community": "s3cret-3"}}'}
    assert (
        settings.load_settings(environment=as_text).hardware.credential("").community.get_secret_value() == "s3cret-3"
    )
    with pytest.raises(ConfigError) as caught:
        settings.load_settings(
            file, environment={"AUTH": "x"}, flags={"hardware.credentials": {"a": {"pasword": "s3cret-4"}}}
        )
    assert "hardware.credentials" in str(caught.value)
    assert "s3cret" not in str(caught.value)
