"""Published numbers beside simulated ones: the ledger of all sections, its error summary, charts and page.

Each section replays what was measured and yields rows of one type. Only the command imports it, since the
simulator must not depend on what it is judged by. Knows no parameter of its own: all come from shipped data.
"""
