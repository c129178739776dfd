"""Templates and styles of the HTML pages that glm4v writes."""
