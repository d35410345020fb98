"""One definition per feature, in NumPy alone: training and serving both compute with these."""
