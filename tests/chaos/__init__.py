"""Through any crash: the flow as real processes over a real broker, killed, paused and starved, and its store against the reference.

    python -m tests.chaos              the whole of it, with a display and the counts
    python -m tests.chaos --quick      a tenth of it

`cloud` makes the samples, `flow` runs and harms the processes, `story` is what happens when, `rows` compares, `unsteady` is a store that fails,
`garbage` is what no batch is, `soak` watches memory and lag.
"""
