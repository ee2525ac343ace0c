"""pollsters.d: what loads, and what is wrong with the rest, with its line and what to write instead."""

import re
from pathlib import Path

import pytest

from nephoscope.errors import ConfigError
from sources.dynamic.definitions import KNOWN, REFUSED, load_definitions

DOCUMENTED = Path(__file__).parents[2] / "data/pollsters/documented.yaml"
LEAST = """\
- name: things.size
  sample_type: gauge
  unit: B
  value_attribute: size
  url_path: https://api.example/things
"""


def load(tmp_path, *texts):
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(text)
    return load_definitions(files)


def problems(tmp_path, *texts):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, *texts)
    return [(Path(p.file).name, p.line, p.field, p.message, p.hint) for p in caught.value.problems]


def test_what_ceilometer_documents_loads_unchanged():
    found = {d.name: d for d in load_definitions([DOCUMENTED])}

    assert len(found) == 6
    instance = found["dynamic_pollster.instance.status"]
    assert instance.request.headers == (("Openstack-API-Version", "compute 2.65"),)
    assert instance.mapping == {"ACTIVE": 1.0}
    assert [e.cached for e in instance.view.extra] == [1800, 3600, 3600]
    assert [names for names, _ in instance.view.metadata.fields][2] == (
        "image | value or { 'id': '' } | value['id']",
        "dynamic_image_ref",
    )
    assert found["dynamic.radosgw.api.request.{category}"].by == "category"
    assert found["dynamic.radosgw.api.request"].request.authentication == "s3"
    assert found["dynamic.magnum.cluster"].default == -1


def test_a_definition_alone_needs_no_list(tmp_path):
    alone = LEAST.replace("- ", "", 1).replace("\n  ", "\n")

    assert [d.name for d in load(tmp_path, alone)] == ["things.size"]


@pytest.mark.parametrize(
    "line, wrong, said, hint",
    [
        (2, "  sample_type: guage", "must be one of gauge, delta, cumulative, not 'guage'", "did you mean 'gauge'?"),
        (3, "  unti: B", "'unti' is not known here", "did you mean 'unit'?"),
        (4, "  value_attribute: size | value.split(", "not an expression", ""),
        (4, "  value_attribute: '[sizes].bytes'", "is a list of values", "a name that ends in .{attribute}"),
        (4, "  value_attribute: ''", "is empty", ""),
        (5, "  url_path: things", "is no whole URL, and there is no endpoint_type", "https://HOST/PATH"),
        (5, "  url_path: file:///etc/passwd", "is no whole URL", ""),
        (5, "  url_path: 'https://api/${HOME}'", "a reference is ${env:NAME} or ${file:path}", ""),
        (6, "  host_command: cat /etc/passwd", "'host_command' is not supported", "no command is run"),
        (6, "  barbican_secret_id: 1", "'barbican_secret_id' is not supported", "${file:/run/secrets/NAME}"),
        (6, "  module: os", "no class of 'os' is loaded", "one of basic, digest, bearer, s3"),
        (6, "  authentication_object: kerberos", "there is no 'kerberos'", "known: "),
        (6, "  timeout: None", "a request must end", "a number of seconds"),
        (6, "  timeout: 0", "must be a number between 0.1 and 3600, not 0", ""),
        (6, "  response_handlers: [jason]", "there is no handler 'jason'", "did you mean 'json'?"),
        (6, "  metadata_mapping: {name: display}", "'name' is none of the metadata_fields", ""),
        (6, "  value_mapping: {ACTIVE: yes please}", "must be a number", ""),
        (6, "  value_mapping: {1: 2}", "a key must be text", "put it in quotes"),
        (6, "  default_value: none", "must be a number", ""),
        (6, "  headers: {'bad name': x}", "'bad name' is no header", ""),
        (6, '  headers: {X-A: "a\\r\\nX-B: c"}', "'X-A' is no header", ""),
        (6, "  namespaces: Central!", "'Central!' is no namespace", "central, compute, ipmi"),
        (6, "  extra_metadata_fields: [{name: a, url_path: \"'/x/' + smaple['id']\", value: b}]", "there is no 'smaple' here", "did you mean"),
        (6, "  extra_metadata_fields: [{name: a, url_path: /x, valeu: b}]", "'valeu' is not known here", "did you mean 'value'?"),
        (6, "  resource_id_attribute: id | valeu + 1", "does nothing with `value`", ""),
    ],
)  # fmt: skip
def test_a_slip_is_told_with_its_line_and_what_would_be_right(tmp_path, line, wrong, said, hint):
    lines = LEAST.splitlines()
    lines[line - 1 : line] = [wrong]

    found = problems(tmp_path, "\n".join(lines) + "\n")

    assert [f for f in found if f[:2] == ("0.yaml", line) and said in f[3] and hint in f[3] + f[4]], found


def test_every_file_is_checked(tmp_path):
    found = problems(tmp_path, "- name: [", LEAST, LEAST.replace("size", "weight", 1).replace("unit: B\n  ", ""), "5")

    assert [(f[0], f[3][:12]) for f in found] == [
        ("0.yaml", "not YAML: di"),
        ("2.yaml", "has no unit"),
        ("3.yaml", "must be a li"),
    ]


def test_a_meter_has_one_definition_in_a_namespace(tmp_path):
    compute = LEAST + "  namespaces: [compute, ipmi]\n"

    assert len(load(tmp_path, LEAST, compute)) == 2
    (found,) = problems(tmp_path, LEAST, compute, LEAST)
    assert found[0] == "2.yaml"
    assert "0.yaml:1 too" in found[3]


def test_a_name_for_many_meters_wants_a_list(tmp_path):
    (found,) = problems(tmp_path, LEAST.replace("things.size", "things.{kind}"))

    assert found[3:] == ("'size' is no list", "[list].value for a name that ends in {kind}")


def test_the_examples_of_the_page_load(tmp_path):
    page = (Path(__file__).parents[3] / "docs/pollsters.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(# pollsters\.d/.*?)```", page, re.DOTALL)

    assert [d.name for d in load(tmp_path, *examples)] == [
        "dynamic.radosgw.api.request.{category}",
        "dynamic.instance.status",
    ]


def test_the_page_names_every_key():
    page = (Path(__file__).parents[3] / "docs/pollsters.md").read_text(encoding="utf-8")

    assert [key for key in (*KNOWN, *REFUSED) if f"`{key}`" not in page] == []
