"""Extensions for frameworks, one module each."""
