"""A group of agents in virtual time: the product's own Agent, Schedule, Keeper, Membership, Share and owners, thousands of periods a minute.

What is made up is what stands around them: clocks, the back end, the targets, the log. `python -m tests.simulator --seed N` runs one.
"""
