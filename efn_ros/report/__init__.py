"""What is shown to people: tables, figures and videos."""
