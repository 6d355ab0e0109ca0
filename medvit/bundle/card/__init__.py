"""The model card of a bundle: Markdown for people and hubs, CHAI's XML, the source attributes of HTI-1."""
