"""What to do next: scheduling, routing and placement rules. Pure decisions; they know neither costs nor
time.
"""
