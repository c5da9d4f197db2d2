//! The raw client that benchmarks compare with.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, IntoConnectionInfo, RedisResult};
use ringtide_servers::ValkeyServer;

/// Connects to a server with the settings of the product's own connections.
///
/// # Errors
/// What redis-rs says.
pub async fn raw(server: &ValkeyServer) -> RedisResult<MultiplexedConnection> {
    let info = format!("redis://{}/?protocol=resp3", server.address()).into_connection_info()?;
    let client = redis::Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))?;
    let config = AsyncConnectionConfig::new()
        .set_response_timeout(Some(Duration::from_millis(500)))
        .set_pipeline_buffer_size(1024);
    client.get_multiplexed_async_connection_with_config(&config).await
}
