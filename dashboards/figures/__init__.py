"""The figures of a report: plain data for plotly, each with a title and a caption."""
