"""Measuring on another machine: what is sent there, and the conversation with the agent (``bench.agent``) there.

A connection says how a command is run there; the rest is here, once. The agent goes first, in one file, and stays as
long as the job: a connection that drops is made again, and what was measured meanwhile is not lost. Everything there
is in one folder, which is removed at the end, or by the agent itself where this side does not come back.
"""
