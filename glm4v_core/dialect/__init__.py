"""How each model generation writes prompts and answers: text processing without any model library."""
