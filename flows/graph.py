"""The compiled flow as a graph: sources → sinks' steps → publishers; drawn as Mermaid or DOT."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from flows.plan import Plan
from nephoscope.pipeline import STORE, Pipeline, Step, resolve_publisher

_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Node:
    """`kind`: source, step, sink (one without steps), publisher. `lines`: what is written into it."""

    name: str
    kind: str
    lines: tuple[str, ...]


@dataclass(slots=True)
class Graph:
    """Nodes by sink ('' for sources and publishers), and edges by the nodes' names."""

    nodes: dict[str, list[Node]] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)


def graph_of(plan: Plan, pipeline: Pipeline) -> Graph:
    """The graph of a plan; the pipeline that it was compiled from says what the steps are given."""
    graph = Graph({"": []})
    sources: dict[str, str] = {}
    publishers: dict[str, str] = {}
    steps = {sink.name: sink.steps for sink in pipeline.sinks}
    for sink in plan.sinks:
        own = graph.nodes.setdefault(sink.name, [])
        if not sink.steps:
            own.append(Node(f"k{sink.index}", "sink", ("as they come",)))
        for step in sink.steps:
            lines = (f"{step.position}: {step.kind}", *_about(steps[sink.name][step.position]))
            own.append(Node(f"k{sink.index}_{step.position}", "step", lines))
        for source, _ in sink.sources:
            if source.name not in sources:
                sources[source.name] = f"s{len(sources)}"
                lines = (source.name, _meters(source.meters))
                if source.interval:
                    lines += (f"every {source.interval} s",)
                graph.nodes[""].append(Node(sources[source.name], "source", lines))
            graph.edges.append((sources[source.name], own[0].name))
        graph.edges += [(a.name, b.name) for a, b in pairwise(own)]
        for url in sink.publishers:
            stored = resolve_publisher(url) == STORE
            shown = "the store" if stored else url
            if shown not in publishers:
                publishers[shown] = f"p{len(publishers)}"
                graph.nodes[""].append(Node(publishers[shown], "publisher", (shown,)))
            edge = own[-1].name, publishers[shown]
            if edge not in graph.edges:
                graph.edges.append(edge)
    return graph


def draw_mermaid(graph: Graph) -> str:
    """The graph for Markdown."""
    shapes = {"source": ("([", "])"), "publisher": ("[(", ")]"), "step": ("[", "]"), "sink": ("[", "]")}

    def node(one: Node) -> str:
        left, right = shapes[one.kind]
        text = "<br>".join(_mermaid(line) for line in one.lines)
        return f'{one.name}{left}"{text}"{right}'

    lines = ["flowchart LR"]
    for number, (sink, nodes) in enumerate(graph.nodes.items()):
        if sink:
            lines.append(f'  subgraph sink{number}["{_mermaid(sink)}"]')
        lines += [f"  {'  ' if sink else ''}{node(one)}" for one in nodes]
        if sink:
            lines.append("  end")
    lines += [f"  {a} --> {b}" for a, b in graph.edges]
    return "\n".join(lines)


def draw_dot(graph: Graph) -> str:
    """The graph for Graphviz."""
    shapes = {"source": "oval", "publisher": "cylinder", "step": "box", "sink": "box"}
    lines = ["digraph flow {", "  rankdir=LR;", '  node [fontname="sans-serif", fontsize=11];']
    for number, (sink, nodes) in enumerate(graph.nodes.items()):
        if sink:
            lines += [f"  subgraph cluster_{number} {{", f'    label="{_dot(sink)}";']
        for one in nodes:
            text = "\\n".join(_dot(line) for line in one.lines)
            lines.append(f'  {"  " if sink else ""}{one.name} [shape={shapes[one.kind]}, label="{text}"];')
        if sink:
            lines.append("  }")
    lines += [f"  {a} -> {b};" for a, b in graph.edges]
    return "\n".join([*lines, "}"])


def _about(step: Step) -> Iterable[str]:
    """What tells a step from others of its kind."""
    target: dict[str, Any] = step.parameters.get("target") or {}
    for key in ("name", "expr", "scale"):
        if target.get(key):
            yield _cut(f"{'→ ' if key == 'name' else key + ' '}{target[key]}")
    for key in ("size", "retention_time", "interval", "hold"):
        if step.parameters.get(key):
            yield f"{key} {step.parameters[key]}"


def _meters(meters: tuple[str, ...]) -> str:
    """As many as there is room for, and how many more."""
    shown = 1
    while shown < len(meters) and len(", ".join(meters[: shown + 1])) <= _LONGEST:
        shown += 1
    more = f" and {len(meters) - shown} more" if shown < len(meters) else ""
    return _cut(", ".join(meters[:shown])) + more


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _mermaid(text: str) -> str:
    """Text that Mermaid takes for text, in quotes."""
    special = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "`": "#96;", "&": "#amp;"}
    return "".join(special.get(c, c if c.isprintable() else " ") for c in text)


def _dot(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text).replace("\\", "\\\\").replace('"', '\\"')
