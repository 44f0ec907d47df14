"""What is measured rather than tested: speed, accuracy against evaluations, and the references both stand on."""
