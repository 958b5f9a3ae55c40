"""What a run needs on an accelerator that is not at hand, as its compiler tells.

The project's own programs are compiled ahead of time for a named machine. Nothing is executed:
what is said of time is an estimate or a bound, and is called so. `dmphn plan` is the command,
docs/plan.md its page.
"""
