"""What people see of a search: progress, tables, pictures, TensorBoard, a page."""
