"""Text to descriptions: YAML with line numbers, Hugging Face configurations, traces, measured tables.

All problems of a file are found at once, each with file, line, key and what would be right. Where shipped
data lies, in a checkout or in a wheel, is decided here and nowhere else. Knows nothing of costs, scenarios
or time.
"""
