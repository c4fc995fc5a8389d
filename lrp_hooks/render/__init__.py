"""Pictures of relevance: terminal, self-contained HTML, SVG, PNG, PDF."""
