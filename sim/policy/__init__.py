"""What to do next: scheduling, routing, placement and reloading, each rule a frozen dataclass and a callable.

The fields of a rule are its knobs; the dict at the end of each module lists all rules by name. Knows nothing
of costs and time: a rule sees what it decides about through a few read-only properties, and a script may
pass any other callable.
"""
