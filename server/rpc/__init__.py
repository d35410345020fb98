"""How every gRPC server of ours starts, validates, reports, sheds and drains."""
