"""What a sweep found, as pages: reads MLflow and the study, knows neither the trainer nor the search."""
