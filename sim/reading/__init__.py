"""Text to descriptions: YAML with line numbers, Hugging Face configurations, request traces."""
