"""Large data is provided for unless the user has chosen otherwise."""

from anyseg_ros.ros.transport import configure_transport, transport_environment


def test_large_data_is_set_where_nothing_is_chosen():
    environment: dict[str, str] = {}
    assert configure_transport(environment)
    assert environment == {"FASTDDS_BUILTIN_TRANSPORTS": "DEFAULT?sockets_size=16MB"}


def test_what_the_user_chose_stays():
    for name in (
        "FASTDDS_BUILTIN_TRANSPORTS",
        "FASTDDS_DEFAULT_PROFILES_FILE",
        "FASTRTPS_DEFAULT_PROFILES_FILE",
    ):
        assert transport_environment({name: "mine"}) == {}
        assert configure_transport({name: "mine"})
    assert transport_environment({"RMW_IMPLEMENTATION": "rmw_zenoh_cpp"}) == {}
    assert transport_environment({"ANYSEG_CONFIGURE_TRANSPORT": "0"}) == {}
    assert not configure_transport({"ANYSEG_CONFIGURE_TRANSPORT": "0"})
