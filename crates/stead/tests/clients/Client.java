import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.DriverPropertyInfo;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Arrays;
import java.util.Properties;
import org.postgresql.PGConnection;

/** pgJDBC against a server: the first argument is its URL, the second the URL with a wrong password. */
public class Client {
    static void check(boolean holds, Object... told) {
        if (!holds) {
            throw new AssertionError(Arrays.toString(told));
        }
    }

    public static void main(String[] args) throws Exception {
        Properties settings = new Properties();
        settings.setProperty("ApplicationName", "pgJDBC");
        // Told so, it gives its name in the first packet, where the gateway's log takes it from.
        settings.setProperty("assumeMinServerVersion", "15");
        boolean binds = false;
        for (DriverPropertyInfo known : new org.postgresql.Driver().getPropertyInfo(args[0], settings)) {
            binds |= known.name.equals("channelBinding");
        }
        if (binds) {
            settings.setProperty("channelBinding", "require");
        }
        try (Connection db = DriverManager.getConnection(args[0], settings); Statement statement = db.createStatement()) {
            try (PreparedStatement typed = db.prepareStatement("select ? + 1, ?::numeric, ?::text[]")) {
                Array words = db.createArrayOf("text", new String[] {"ä", "b"});
                typed.setInt(1, 41);
                typed.setBigDecimal(2, new java.math.BigDecimal("1.50"));
                typed.setArray(3, words);
                ResultSet row = typed.executeQuery();
                check(row.next() && row.getInt(1) == 42, "int");
                check(row.getBigDecimal(2).toString().equals("1.50"), row.getBigDecimal(2));
                check(Arrays.equals((String[]) row.getArray(3).getArray(), new String[] {"ä", "b"}), "text[]");
            }
            try {
                statement.execute("select 1 / 0");
                check(false, "no error");
            } catch (SQLException error) {
                check("22012".equals(error.getSQLState()), error);
            }
            statement.execute("create table of_java (n int)");
            db.setAutoCommit(false);
            statement.execute("insert into of_java values (1)");
            db.commit();
            statement.execute("insert into of_java values (2)");
            db.rollback();
            db.setAutoCommit(true);
            ResultSet all = statement.executeQuery("select string_agg(n::text, ' ') from of_java");
            check(all.next() && all.getString(1).equals("1"), "transaction");
            // From the fifth time on pgJDBC has the server prepare it by name.
            try (PreparedStatement twice = db.prepareStatement("select ?::int * 2")) {
                for (int n = 0; n < 20; n++) {
                    twice.setInt(1, n);
                    ResultSet row = twice.executeQuery();
                    check(row.next() && row.getInt(1) == 2 * n, n);
                }
            }
            statement.execute("listen news");
            statement.execute("notify news, 'hello'");
            var heard = db.unwrap(PGConnection.class).getNotifications(30_000);
            check(heard != null && heard[0].getParameter().equals("hello"), "notification");
            statement.execute("drop table of_java");
        }
        try {
            DriverManager.getConnection(args[1], settings).close();
            check(false, "the wrong password was taken");
        } catch (SQLException error) {
            check("28P01".equals(error.getSQLState()), error);
        }
        System.out.println(binds ? "well, bound" : "well");
    }
}
