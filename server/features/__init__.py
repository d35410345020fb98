"""One definition per feature, in NumPy alone: training and serving both use it."""
