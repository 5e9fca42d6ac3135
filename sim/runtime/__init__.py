"""What happens when: the only package in which time passes and state changes."""
