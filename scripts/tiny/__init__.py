"""How the bundled tiny checkpoint is made: words, documents, pages, questions, tokenizer, network, training."""
